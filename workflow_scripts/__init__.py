"""Workflow commands, one file each, in folders named like the rule files; those in `tools` belong to no rule."""

import taqmlx  # noqa: F401 before MLX, for its BLAS
