"""Write the measured numbers of docs/numbers.json into the documents, wherever they are marked."""

import argparse
from pathlib import Path

from taqmlx.report.documents import fill
from taqmlx.report.numbers import Numbers
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_plain_json, write_atomically


def main(arguments: argparse.Namespace) -> None:
    numbers = read_plain_json(arguments.numbers)
    for path in arguments.documents or [Path("README.md"), *sorted(Path("docs").glob("*.md"))]:
        fill_document(path, numbers)


def fill_document(path: Path, numbers: Numbers) -> None:
    """Rewrite a document if its numbers are others. Raises UserError, naming it, for a mark that cannot be filled."""
    before = path.read_text(encoding="utf-8")
    try:
        text = fill(before, numbers)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if text != before:
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
        log.info(f"{path} is filled")


def build_arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__)
    parser.add_argument("--numbers", type=Path, default=Path("docs/numbers.json"), help="the measured numbers")
    parser.add_argument("documents", type=Path, nargs="*", help="documents to fill (default: README.md and docs/*.md)")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
