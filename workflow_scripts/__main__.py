"""The command `taqmlx`: `taqmlx COMMAND ...` does what `python -m workflow_scripts.COMMAND ...` does."""

import ast
import runpy
import sys
from pathlib import Path

from workflow_scripts.entry import describe_missing

USAGE = "usage: taqmlx COMMAND [OPTION ...]; taqmlx COMMAND --help lists its options"


def list_commands() -> dict[str, str]:
    """The package's modules that can be run, each with the first line of its docstring."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("[!_]*.py"))}
    return {
        name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        for name, text in texts.items()
        if '\nif __name__ == "__main__":\n' in text
    }


def main() -> None:
    words = sys.argv[1:]
    commands = list_commands()
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, commands))
        print("\n".join([USAGE, "", *(f"{name:<{width}}  {line}" for name, line in commands.items())]))
        return
    if words[0] not in commands:
        sys.exit(f"error: {words[0]!r} is no command; taqmlx --help lists them")
    sys.argv = sys.argv[1:]
    try:
        runpy.run_module(f"workflow_scripts.{words[0]}", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if not (text := describe_missing(error)):
            raise
        sys.exit(f"error: {text}")


if __name__ == "__main__":
    main()
