"""Tests run as workers do: one thread per process, and the package imported before MLX so that its BLAS is bound."""

import workflow_scripts  # noqa: F401
