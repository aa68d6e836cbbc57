"""The commands of the workflow, a file for each, in folders named like the rule files; `tools` are no rules'."""

import taqmlx  # noqa: F401  before MLX, for its BLAS
