"""Developer programs, run from a clone and not installed: benchmarks, fault injection, a one-node Slurm."""
