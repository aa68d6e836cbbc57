"""Fused loops for MLX's Linux CPU wheel, built once and put where MLX looks for them.

MLX has g++ compile each function of `mx.compile` at its first use, in `mlx/<version>/cpu` of the folder for temporary
files, and loads what it finds there. Jobs that start together would load each other's unfinished files, and a stopped
job would leave one. The command `install_loops` therefore builds them, and an import copies them there, each with one
rename. Where they are not built, MLX evaluates operation by operation: the same results in more time.

Every process that imports the package runs `place_loops`, so modules that are slow to import are left out or imported
where a build or a message needs them.
"""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

from taqmlx.runtime.blas import LOOPS_INSTALLER, SWITCH, find_bundled_blas, is_installing, warn

ADVICE = "MLX evaluates operation by operation (about 1.5 times slower)"
DISABLE = "MLX_DISABLE_COMPILE"
SOURCE = Path(__file__).parents[1] / "numerics" / "fused.py"
TEMPORARY = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")  # environment, in the order of std::filesystem::temp_directory_path
LIBRARIES = "mlx/*/cpu/*.so"


def place_loops() -> None:
    """Copy the built loops to where MLX looks for them, or keep MLX from compiling; do nothing on other platforms.

    Call before the first `import mlx.core`. A failure is logged in one line, never raised. MLX_REFERENCE_BLAS=1 in the
    environment leaves MLX as installed.
    """
    if has_loops() and (obstacle := find_obstacle(find_folder(), find_temporary())):
        import shutil

        os.environ[DISABLE] = "1"
        if shutil.which("g++") and not is_installing():
            warn(f"{ADVICE}: {obstacle}")


def find_obstacle(built: Path, temporary: Path) -> str:
    """Copy the loops in `built` to the folder `temporary`; returns why that failed and what to do, or nothing."""
    if not built.is_dir():
        return f"no loops are built for this version; run: python -m {LOOPS_INSTALLER}"
    try:
        if os.statvfs(temporary).f_flag & os.ST_NOEXEC:
            raise OSError(f"no program may run from {temporary}")
        for library in built.glob(LIBRARIES):
            place(library, temporary / library.relative_to(built))
    except OSError as error:
        return f"{error}; set TMPDIR to another folder"
    return ""


def has_loops() -> bool:
    """True if MLX on this platform is to use built loops."""
    return find_bundled_blas() is not None and os.environ.get(SWITCH) != "1" and DISABLE not in os.environ


def find_folder() -> Path:
    """Folder of the loops of this version of MLX and of `numerics/fused.py`, beside the installed MLX."""
    bundled = find_bundled_blas()
    assert bundled is not None
    packages = bundled.parents[1]
    version = "".join(path.stem for path in packages.glob("mlx-*.dist-info"))  # mlx-0.32.4
    return packages / "taqmlx_loops" / f"{version}-{zlib.crc32(SOURCE.read_bytes()):08x}"


def find_temporary() -> Path:
    """Folder that C++ programs use for temporary files."""
    return Path(next((os.environ[name] for name in TEMPORARY if name in os.environ), "/tmp"))


def place(library: Path, target: Path) -> None:
    """Copy `library` to `target` in one rename, unless a file of its size is there. Raises OSError."""
    if target.exists() and target.stat().st_size == library.stat().st_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{os.getpid()}.{target.name[-200:]}")
    try:
        partial.write_bytes(library.read_bytes())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def build_loops(evaluate_samples: Callable[[], object]) -> bool:
    """Have MLX compile the loops that `evaluate_samples` needs, unless they are built. Returns True if it did.

    Call in a process that has compiled nothing. Safe in several processes at once: each builds in its own folder and
    renames it into place. Raises OSError.
    """
    import tempfile

    folder = find_folder()
    if folder.is_dir():
        return False
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as name:
        staging = Path(name)
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = name
        try:
            evaluate_samples()
        finally:
            os.environ.pop("TMPDIR") if before is None else os.environ.update(TMPDIR=before)
        if not any(staging.glob(LIBRARIES)):
            raise OSError("MLX compiled nothing")
        staging.chmod(0o755)
        try:
            staging.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return True
