"""The packages whose versions decide the last bits of what is computed.

`<results>/versions.json` lists every combination that results were made with. No seal has them: finished work stays
finished when a package is updated, and who runs on is warned.
"""

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from workflow_scripts.plain_files import read_plain_json
from workflow_scripts.store.files import write_json

PACKAGES = ("mlx", "diffusionkit", "numpy", "scipy-openblas32", "torch")
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
    return {package: find_version(package) for package in PACKAGES}


def read_recorded(results: Path) -> list[Versions]:
    """The combinations that results were made with, the first one first; none if that was not recorded."""
    try:
        recorded = read_plain_json(results / FILE)["made_with"]
        return [dict(versions) for versions in recorded]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def find_changes(results: Path) -> Iterator[str]:
    """A line for each package that some of the results were made with in another version than the installed one."""
    installed, recorded = list_installed(), read_recorded(results)
    for package, version in installed.items():
        others = dict.fromkeys(entry[package] for entry in recorded if entry.get(package, version) != version)
        if others:
            yield (
                f"{results} has results of {package} {', '.join(others)}, and {version} is installed: what is made now"
                " may differ in its last bits"
            )


def record(results: Path) -> None:
    """Add the installed versions to the results' record, unless it has them."""
    recorded, installed = read_recorded(results), list_installed()
    if installed not in recorded:
        write_json(results / FILE, {"made_with": [*recorded, installed]})
