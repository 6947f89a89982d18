"""What runs: the agenda, Ray, the worker that a trial runs in, and what all of it costs."""
