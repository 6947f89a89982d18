"""What is declared: params.yaml, the experiments and searches, and the trials that they come to."""
