"""Names of the kernels of matrix products that a figure was measured with, and a warning if they are not the CPU's own.

OpenBLAS chooses its kernels by the CPU, PyTorch by the vector instructions it finds. OpenBLAS is asked in the library
that MLX uses, a renamed copy that threadpoolctl does not know.
"""

import os
import sys
from functools import cache

from taqmlx.runtime.blas import SWITCH, name_kernels
from tools.benchmarks.table import call

SELECTOR = "OPENBLAS_CORETYPE"
REFERENCE = "reference"
PRINT_OURS = "import taqmlx; from taqmlx.runtime.blas import name_kernels; print(name_kernels())"
PRINT_TORCH = "import torch; print(torch.backends.cpu.get_cpu_capability())"


@cache
def name_torch() -> str:
    """PyTorch and its vector instructions, as `PyTorch AVX512`; asked in a process of its own."""
    return f"PyTorch {call('-c', PRINT_TORCH).stdout.split()[-1]}"


def name_products(name: str, reference: bool = False) -> str:
    """What multiplies matrices in the run `name`, which is PyTorch's if it begins with `torch`, else MLX's.

    reference: MLX stays on the BLAS of its wheel.
    """
    if name.startswith("torch"):
        return name_torch()
    return REFERENCE if reference else name_kernels()


def name_unheld() -> str:
    """The kernels that MLX's matrix products have on this CPU if the environment selects none."""
    free = {name: value for name, value in os.environ.items() if name not in (SELECTOR, SWITCH)}
    return str(call("-c", PRINT_OURS, env=free).stdout.strip().splitlines()[-1])


def describe_held() -> str | None:
    """A line if the environment selects other kernels than OpenBLAS does for this CPU; else None."""
    held = {name: os.environ[name] for name in (SELECTOR, SWITCH) if name in os.environ}
    if not held or name_kernels() == (own := name_unheld()):
        return None
    setting = " ".join(f"{name}={value}" for name, value in held.items())
    return f"{setting} selects the BLAS kernels {name_kernels()}, this CPU has {own}: figures are not of its full speed"


def warn_if_held() -> None:
    """Print the line of `describe_held` to standard error."""
    if line := describe_held():
        print(f"warning: {line}", file=sys.stderr, flush=True)
