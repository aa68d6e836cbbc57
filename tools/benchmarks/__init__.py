"""Speed and memory benchmarks: `make bench` prints one table and writes it as JSON."""

import taqmlx  # noqa: F401  # before MLX, so that its BLAS is bound
