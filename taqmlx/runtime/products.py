"""Precision of fp32 products on a GPU, set before MLX starts."""

import os

from taqmlx.store.products import VARIABLE


def forbid_tf32() -> None:
    """Make MLX multiply fp32 matrices in fp32, unless the environment says otherwise; must run before MLX starts."""
    os.environ.setdefault(VARIABLE, "0")
