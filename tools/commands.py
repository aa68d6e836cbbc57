"""The commands by name."""

from pathlib import Path

FOLDER = Path("workflow_scripts")


def find_module(name: str) -> str:
    """The module of the command `name`, in the folder of its rule file. Raises ValueError if there is none."""
    (path,) = FOLDER.glob(f"*/{name}.py")
    return ".".join(path.with_suffix("").parts)
