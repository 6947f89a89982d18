"""What people ask beside the stages: `status`, `doctor`, `why`, `verify` and the others."""
