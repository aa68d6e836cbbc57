"""Build fused loops for MLX's Linux CPU wheel, with g++: several element-wise operations in one pass over memory.

`make venv` runs it. Run it by hand after an update of MLX or of this package. Results are the same without them, in
about 1.5 times the time. On other platforms it does nothing; loops that are built already are kept.
"""

import argparse
import shutil

import mlx.core as mx

from taqmlx.numerics.fused import evaluate_samples
from taqmlx.runtime.blas import find_bundled_blas
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.runtime.fused_loops import ADVICE, build_loops
from taqmlx.store.errors import UserError


def main(_: argparse.Namespace) -> None:
    if find_bundled_blas() is None:
        log.info("MLX needs no fused loops on this platform; nothing to do")
        return
    if shutil.which("g++") is None:
        log.warning("%s: g++ is not installed; install it, and run again", ADVICE)
        return
    mx.enable_compile()
    try:
        built = build_loops(evaluate_samples)
    except (OSError, RuntimeError) as error:
        raise UserError(f"no fused loops for MLX: {error}; make the environment writable, and run again") from error
    log.info("MLX now uses fused loops" if built else "MLX already uses fused loops")


if __name__ == "__main__":
    run(main, build_parser(__doc__))
