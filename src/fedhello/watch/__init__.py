"""The page that follows a run: a server on this machine alone, which reads the run's folder and nothing else."""
