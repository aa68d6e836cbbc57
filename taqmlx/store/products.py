"""How fp32 matrices are multiplied: versions and seals record it.

CUDA GPUs and the M5 multiply fp32 matrices in TF32 by default, with relative errors of 3e-4 to 8e-4: too much for
Hessians, learning and verification.
"""

import os

VARIABLE = "MLX_ENABLE_TF32"  # MLX reads it at its first product


def name_products() -> str:
    """`fp32`, or `TF32 allowed` where the environment lets a GPU use it."""
    return "fp32" if os.environ.get(VARIABLE) == "0" else "TF32 allowed"
