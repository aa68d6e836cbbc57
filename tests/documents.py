"""The commands that documents name, and what there is to be named: rules, settings, entries."""

import re
import runpy
import shlex
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import NamedTuple

import yaml
from snakemake.cli import get_argument_parser

from workflow_scripts import configuration, entry

RULES = {name for path in Path("rules").glob("*.smk") for name in re.findall(r"^rule (\w+):", path.read_text(), re.M)}
SCHEMA = configuration.load_schema()
PROGRAMS = ("snakemake", "make", "python", "source", "rm", "hf")


class Command(NamedTuple):
    """A command line as words, without its comment, and the text of the section it stands in."""

    document: str
    words: list[str]
    section: str

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def read_commands(path: Path) -> list[Command]:
    """The commands in indented and in ```sh blocks; a backslash at a line's end continues it."""
    commands = []
    for section in split_sections(path.read_text(encoding="utf-8")):
        lines = "\n".join(list_code(section)).replace("\\\n", " ").splitlines()
        words = [shlex.split(line, comments=True) for line in lines]
        commands += [Command(path.name, found, section) for found in words if found]
    return commands


def split_sections(text: str) -> list[str]:
    """The text cut before each heading."""
    return re.split(r"^(?=#+ )", text, flags=re.M)


def list_code(section: str) -> list[str]:
    """The lines of indented and of ```sh blocks."""
    found, fence, before = [], None, ""
    for line in section.splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line.removeprefix("```")
        elif fence == "sh" or (fence is None and line.startswith("    ") and (not before or before.startswith("    "))):
            found.append(line.strip())
        before = line.strip() and line
    return found


def list_hidden_commands(text: str) -> list[str]:
    """Lines of fences of other kinds that begin like a command."""
    fences = re.findall(r"^```(?!sh\n)\w*\n(.*?)^```", text, re.M | re.S)
    return [
        line for fence in fences for line in fence.splitlines() if line.startswith(("snakemake ", "make ", "python "))
    ]


def parse_snakemake(words: list[str]) -> Namespace:
    """A line of Snakemake, read by its own parser: `targets`, `configfile`, `config`."""
    return get_argument_parser(profiles=[]).parse_args(words[1:])


def find_results(found: Namespace) -> str:
    """The folder of results that a line of Snakemake writes to."""
    settings = dict(setting.split("=", 1) for setting in found.config or [])
    for path in map(Path, found.configfile or []):
        named = yaml.safe_load(path.read_text()).get("results_dir") if path.exists() else f"results/{path.stem}"
        settings.setdefault("results_dir", named)
    return settings.get("results_dir", "results")


def check_settings(found: Namespace) -> None:
    """Fail unless the configuration takes what a line of Snakemake sets."""
    settings = dict(setting.split("=", 1) for setting in found.config or [])
    files = [Path("config/config.yaml"), *(path for path in map(Path, found.configfile or []) if path.exists())]
    values = {key: value for file in files for key, value in yaml.safe_load(file.read_text()).items()}
    configuration.complete(values | {key: yaml.safe_load(value) for key, value in settings.items()}, SCHEMA)


def parse_entry(monkeypatch, words: list[str]) -> Namespace:
    """The arguments of a line `python -m workflow_scripts.NAME`, read by the entry's own parser; nothing is run."""
    found = []

    def parse(main, parser: ArgumentParser) -> None:
        found.append(parser.parse_args(words[3:]))

    monkeypatch.setattr(entry, "run", parse)
    monkeypatch.delitem(sys.modules, words[2], raising=False)
    runpy.run_module(words[2], run_name="__main__")
    return found[0]
