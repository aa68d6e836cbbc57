"""Runtime shared by all commands: command line, log, progress, errors, the BLAS of MLX, versions."""
