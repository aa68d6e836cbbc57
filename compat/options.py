"""Types for the commands of the original programs and their options."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any, NamedTuple

from taqmlx.planning.documents import Config

Settings = Config  # by configuration key
OVERWRITE = ("--config", "overwrite=true")


class Option(NamedTuple):
    """An option: what it becomes, or why it is rejected."""

    flag: str
    read: Callable[[str], Any] | None = str  # None: it takes no value
    default: Any = None
    sets: tuple[str, ...] = ()  # the configuration keys that take its value
    passes: str = ""  # the option of the current command that takes its value
    adds: tuple[str, ...] = ()  # words for the current command
    shows: str = ""  # what of the results its value becomes a link to
    says: str = ""  # a line for the user, as it changes nothing
    rejected: str = ""  # what to use instead
    nargs: str | None = None
    also: tuple[str, ...] = ()  # its other spellings

    @property
    def name(self) -> str:
        """Its name among the parsed arguments."""
        return self.flag.lstrip("-").replace("-", "_")


class Change(NamedTuple):
    """What a command's options mean together: configuration values, and words for the current command."""

    settings: Settings
    words: tuple[str, ...] = ()
    needs_blocks: bool = False  # whether the current command needs quantized blocks


def change_nothing(arguments: Namespace, config: Settings) -> Change:
    """The options mean no more together than each alone."""
    return Change({})


class Command(NamedTuple):
    """A command, its options and today's words, where `{results}` stands for the folder of results."""

    help: str
    words: tuple[str, ...]
    options: tuple[Option, ...]
    located_by: tuple[str, ...] = ("calib_dir",)  # the arguments that say where the results are; the first one given
    levels: int = 0  # how many folders above that the results are
    combine: Callable[[Namespace, Settings], Change] = change_nothing
    links: tuple[tuple[str, str], ...] = ()  # promised names, and what of the results they show
    starts: bool = False  # whether it begins a folder of results

    @property
    def uses_workflow(self) -> bool:
        """Whether Snakemake runs it, and not an entry."""
        return self.words[0] == "snakemake"


def say(flag: str, line: str, read: Callable[[str], Any] | None = str) -> Option:
    """An option that is accepted and changes nothing."""
    return Option(flag, read, says=line)


def reject(flag: str, instead: str) -> Option:
    """An option that nothing here corresponds to, with any number of values."""
    return Option(flag, rejected=instead, nargs="*")
