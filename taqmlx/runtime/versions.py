"""Package versions, BLAS kernels and products of a GPU, which determine the last bits of results.

`<results>/versions.json` lists every combination that results were made with. The seals do not contain them: finished
work stays valid after a package update or on another CPU, and continuing a run then gives a warning.
"""

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from taqmlx.runtime.blas import name_kernels
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.products import name_products

PACKAGES = ("mlx", "diffusionkit", "numpy", "scipy-openblas32", "torch")
KERNELS, PRODUCTS = "BLAS kernels", "fp32 products"
FILE = "versions.json"

Versions = dict[str, str]


def find_version(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def list_installed() -> Versions:
    """Installed package versions, the BLAS kernels of this CPU, and how a GPU multiplies fp32 matrices."""
    packages = {package: find_version(package) for package in PACKAGES}
    return packages | {KERNELS: name_kernels(), PRODUCTS: name_products()}


def read_recorded(results: Path) -> list[Versions]:
    """The combinations that results were made with, oldest first; empty if there is no record.

    Raises UserError naming the record if it is damaged.
    """
    path = results / FILE
    recorded = read_json(path).get("made_with") if path.exists() else []
    if not isinstance(recorded, list) or not all(map(is_combination, recorded)):
        raise UserError(f"{path} is not a valid record of versions; delete it and run again")
    return recorded


def is_combination(value: Any) -> bool:
    """True if `value` is a dictionary of version strings."""
    return isinstance(value, dict) and all(isinstance(version, str) for version in value.values())


def find_changes(results: Path) -> Iterator[str]:
    """Yield a line per entry of `list_installed` in which some results differ from the current one.

    Raises UserError as `read_recorded`.
    """
    installed, recorded = list_installed(), read_recorded(results)
    for name, version in installed.items():
        others = dict.fromkeys(entry[name] for entry in recorded if entry.get(name, version) != version)
        if others:
            now = f"{version} {'is installed' if name in PACKAGES else 'are used here'}"
            yield (
                f"{results} was made with {name} {', '.join(others)}, but {now}: new results may differ in their"
                " last bits"
            )


def record(results: Path) -> None:
    """Add the current combination to the results' record if it is new. Raises UserError as `read_recorded`.

    If two nodes record at the same moment, one entry may be lost until that node's next job.
    """
    recorded, installed = read_recorded(results), list_installed()
    if installed not in recorded:
        write_json(results / FILE, {"made_with": [*recorded, installed]})
