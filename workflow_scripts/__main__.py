"""The command `taqmlx`: `taqmlx COMMAND ...` runs `python -m workflow_scripts.FOLDER.COMMAND ...`.

Commands that people type have a program of their own, such as `taqmlx-generate`; see PROGRAMS.
"""

import ast
import runpy
import sys
import textwrap
from functools import partial
from importlib import metadata
from pathlib import Path

from taqmlx.runtime.entry import PACKAGE, describe_missing

FOLDER = Path(__file__).parent
USAGE = "usage: taqmlx COMMAND [OPTION ...]; taqmlx COMMAND --help lists its options"
MORE = "taqmlx --all also lists the commands of the workflow's jobs, taqmlx --version shows the version"
WIDTH = 80  # characters of a line
# The commands that people type, by the end of their program's name.
PROGRAMS = {
    "generate": "generate",
    "budget": "budget",
    "verify": "verify_dataset",
    "verify-weights": "verify_weights",
    "import": "import_samples",
    "fetch": "fetch_weights",
    "create": "create_project",
    "describe": "describe_quantization",
}


def list_commands() -> dict[str, Path]:
    """The command files by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*/[!_]*.py"), key=lambda path: path.stem)}


def describe(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def tabulate(names: dict[str, Path]) -> list[str]:
    """A line for each command: its name and the beginning of its description."""
    width = max(map(len, names))
    return [
        f"{name:<{width}}  {textwrap.shorten(describe(path), WIDTH - width - 2, placeholder=' ...')}"
        for name, path in names.items()
    ]


def show_help(everything: bool) -> None:
    """Print the commands that people type, or all."""
    commands = list_commands()
    typed = {f"taqmlx-{name}": commands[command] for name, command in PROGRAMS.items()}
    print("\n".join([USAGE, "", *tabulate(commands if everything else typed), "", MORE]))


def main() -> None:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "--all"):
        show_help("--all" in words)
    elif words[0] == "--version":
        print(f"taqmlx {metadata.version(PACKAGE)}")
    else:
        sys.argv = words
        run_command(words[0])


def run_command(name: str) -> None:
    """Run a command with the words after the first of `sys.argv`; exit with 1 for one that is not known."""
    commands = list_commands()
    if name not in commands:
        sys.exit(f"error: {name!r} is not a command; taqmlx --all lists them")
    try:
        runpy.run_module(f"{FOLDER.name}.{commands[name].parent.name}.{name}", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if not (text := describe_missing(error)):
            raise
        sys.exit(f"error: {text}")


# What pyproject.toml names for the programs.
generate, budget, verify, verify_weights, import_samples, fetch, create, describe_quantization = (
    partial(run_command, command) for command in PROGRAMS.values()
)

if __name__ == "__main__":
    main()
