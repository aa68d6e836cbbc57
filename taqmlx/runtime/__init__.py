"""What every command shares: its line, log, progress and errors; the BLAS under MLX; versions."""
