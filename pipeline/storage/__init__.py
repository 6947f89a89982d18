"""What is remembered: the trial store, on a disk or at a URL, its locks, and the packed data that machines share."""
