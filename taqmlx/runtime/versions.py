"""What decides the last bits of what is computed: the versions of packages, and the BLAS kernels of the CPU.

`<results>/versions.json` lists every combination that results were made with. No seal has them: finished work stays
finished when a package is updated or another CPU goes on, and who runs on is warned.
"""

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from taqmlx.runtime.blas import name_kernels
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json

PACKAGES = ("mlx", "diffusionkit", "numpy", "scipy-openblas32", "torch")
KERNELS = "BLAS kernels"
FILE = "versions.json"

Versions = dict[str, str]


def find_version(package: str) -> str:
    """The version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def list_installed() -> Versions:
    """What computes now."""
    return {package: find_version(package) for package in PACKAGES} | {KERNELS: name_kernels()}


def read_recorded(results: Path) -> list[Versions]:
    """The combinations that results were made with, the first one first; none if there is no record.

    Raises UserError naming the record if it is damaged.
    """
    path = results / FILE
    recorded = read_json(path).get("made_with") if path.exists() else []
    if not isinstance(recorded, list) or not all(map(is_combination, recorded)):
        raise UserError(f"{path} is no record of versions; delete it and run again")
    return recorded


def is_combination(value: Any) -> bool:
    """Whether `value`, read from a file, has names of versions by names of packages."""
    return isinstance(value, dict) and all(isinstance(version, str) for version in value.values())


def find_changes(results: Path) -> Iterator[str]:
    """A line for each package that some of the results were made with in another version than the installed one, and
    one if they were made with other BLAS kernels than this CPU's. Raises UserError as `read_recorded`.
    """
    installed, recorded = list_installed(), read_recorded(results)
    for name, version in installed.items():
        others = dict.fromkeys(entry[name] for entry in recorded if entry.get(name, version) != version)
        if others:
            now = f"{version} {'are used here' if name == KERNELS else 'is installed'}"
            yield (
                f"{results} has results of {name} {', '.join(others)}, and {now}: what is made now may differ in its"
                " last bits"
            )


def record(results: Path) -> None:
    """Add what computes now to the results' record, unless it has it. Raises UserError as `read_recorded`.

    Of two nodes that record at the same moment one may be lost until its next job.
    """
    recorded, installed = read_recorded(results), list_installed()
    if installed not in recorded:
        write_json(results / FILE, {"made_with": [*recorded, installed]})
