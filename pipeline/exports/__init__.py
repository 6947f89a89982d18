"""What a sweep leaves in `results/`: written by the sweep, read by the report."""
