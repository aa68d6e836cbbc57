"""Programs of developers, run from a clone and not installed: benchmarks, faults on purpose, a Slurm of one node."""
