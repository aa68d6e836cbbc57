"""The command `taqmlx`: `taqmlx COMMAND ...` runs `python -m workflow_scripts.FOLDER.COMMAND ...`."""

import ast
import runpy
import sys
from importlib import metadata
from pathlib import Path

from taqmlx.runtime.entry import PACKAGE, describe_missing

FOLDER = Path(__file__).parent
USAGE = "usage: taqmlx COMMAND [OPTION ...]; taqmlx COMMAND --help lists its options, taqmlx --version the version"


def list_commands() -> dict[str, Path]:
    """The command files by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*/[!_]*.py"), key=lambda path: path.stem)}


def describe(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def main() -> None:
    words = sys.argv[1:]
    commands = list_commands()
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, commands))
        print("\n".join([USAGE, "", *(f"{name:<{width}}  {describe(path)}" for name, path in commands.items())]))
        return
    if words[0] == "--version":
        print(f"taqmlx {metadata.version(PACKAGE)}")
        return
    if words[0] not in commands:
        sys.exit(f"error: {words[0]!r} is not a command; taqmlx --help lists them")
    sys.argv = sys.argv[1:]
    try:
        runpy.run_module(
            f"{FOLDER.name}.{commands[words[0]].parent.name}.{words[0]}", run_name="__main__", alter_sys=True
        )
    except ModuleNotFoundError as error:
        if not (text := describe_missing(error)):
            raise
        sys.exit(f"error: {text}")


if __name__ == "__main__":
    main()
