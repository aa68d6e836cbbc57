"""Precision of fp32 products on a GPU.

CUDA GPUs and the M5 multiply fp32 matrices in TF32 by default, with relative errors of 3e-4 to 8e-4: too much for
Hessians, learning and verification.
"""

import os

VARIABLE = "MLX_ENABLE_TF32"


def forbid_tf32() -> None:
    """Make MLX multiply fp32 matrices in fp32, unless the environment says otherwise; must run before MLX starts."""
    os.environ.setdefault(VARIABLE, "0")


def name_products() -> str:
    """How fp32 matrices are multiplied: `fp32`, or `TF32 allowed`."""
    return "fp32" if os.environ.get(VARIABLE) == "0" else "TF32 allowed"
