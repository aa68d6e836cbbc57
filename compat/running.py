"""Runs a command of the original programs: prints the current command and runs it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from compat.translation import Translation, translate
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_atomically


def run(name: str) -> None:
    """Run the command `name` with the words of the command line, and end the process as the current command ends."""
    try:
        found = translate(name, sys.argv[1:])
        for link, target in found.links.items():
            reject_occupied(link, target)
        keep_settings(found)
    except (UserError, ValueError) as error:
        sys.exit(f"error: {error}")
    print("\n".join([*found.lines, shlex.join(found.words)]), flush=True)
    status = subprocess.run([*list_program(found.words[0]), *found.words[1:]]).returncode
    if status == 0:
        for link, target in found.links.items():
            show(link, target)
    sys.exit(status)


def list_program(name: str) -> list[str]:
    """How a program is started with the Python that runs this."""
    return [sys.executable] if name == "python" else [sys.executable, "-m", name]


def keep_settings(found: Translation) -> None:
    """Write the settings for this command and the later ones, and say which are new."""
    if found.words[0] != "snakemake" or (found.config.exists() and not found.changed):
        return
    text = yaml.safe_dump(found.settings, sort_keys=False, allow_unicode=True)
    write_atomically(found.config, lambda partial: partial.write_text(text, encoding="utf-8"))
    if found.changed:
        print(f"{found.config}: " + ", ".join(f"{key}: {value}" for key, value in found.changed.items()))


def reject_occupied(link: Path, target: Path) -> None:
    """Raise UserError if something else than a link is where one has to be."""
    if link.exists() and not link.is_symlink() and link.resolve() != target.resolve():
        raise UserError(f"{link} is in the way; name another place, or move it away")


def show(link: Path, target: Path) -> None:
    """Make `link` lead to `target`, by a relative path."""
    if link.resolve() == target.resolve():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))
    print(f"{link} -> {target}")
