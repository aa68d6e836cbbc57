"""A command of the original programs as the current command.

The settings of its options are kept in `config.yaml` in the results folder, the configuration of all later commands on
that folder.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from compat.commands import COMMANDS
from compat.options import OVERWRITE, Command, Option, Settings
from taqmlx.planning import block_plan, configuration, plan
from taqmlx.planning.prompts import read_prompts
from taqmlx.planning.stages import CollectShard
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json

STAND_IN = "gptq"  # how weights are rounded, in seconds, until adaround_optimize asks for learned rounding


class Translation(NamedTuple):
    """Today's command, its settings and those that are new, links to make, and lines for the user."""

    words: list[str]
    config: Path
    settings: Settings
    changed: Settings
    links: dict[Path, Path]
    lines: list[str]


def translate(name: str, words: list[str]) -> Translation:
    """What the command `name` with these words is today.

    Raises UserError or ValueError, in one line, for an option or a value that cannot be had.
    """
    command = COMMANDS[name]
    arguments = parse(name, command, words)
    results = find_results(command, arguments)
    given = [option for option in command.options if is_given(option, arguments)]
    before = read_settings(results, command, arguments)
    settings = before | {"results_dir": results.as_posix()}
    if command.uses_workflow:
        settings |= {key: getattr(arguments, option.name) for option in given for key in option.sets}
    else:
        reject_differing(given, arguments, results / "params" / "collect_shard.json")
    change = command.combine(arguments, complete(settings))
    settings = ({"engine": STAND_IN} if change.needs_blocks else {}) | settings | change.settings
    given = [option for option in command.options if is_given(option, arguments)]  # with what `combine` filled in
    today = [word.format(results=results.as_posix()) for word in (*command.words, *change.words)]
    passed = [word for option in given for word in pass_on(option, getattr(arguments, option.name))]
    config = results / "config.yaml"
    if command.uses_workflow:
        if change.needs_blocks and before.get("engine") == STAND_IN and before != settings:
            passed = passed or list(OVERWRITE)
        reject_conflicts(settings, results, overwrites=passed == list(OVERWRITE))
        options = ["--configfile", config.as_posix(), *passed]
        today = ["snakemake", "--cores", arguments.cores, *today[1:], *options]
    else:
        today, settings = today + passed, before
    changed = {key: value for key, value in settings.items() if key not in before or before[key] != value}
    lines = [f"{option.flag}: {option.says}" for option in given if option.says]
    return Translation(today, config, settings, changed, dict(list_links(command, given, arguments, results)), lines)


def parse(name: str, command: Command, words: list[str]) -> argparse.Namespace:
    """The arguments, with the defaults. Raises UserError for an option that is rejected."""
    parser = argparse.ArgumentParser(prog=f"python -m src.{name}", description=command.help, allow_abbrev=False)
    for option in command.options:
        how: dict[str, Any] = {"action": "store_true"}
        if option.read is not None:
            how = {"type": option.read, "nargs": option.nargs, "default": option.default}
        text = option.says or (f"not supported: {option.rejected}" if option.rejected else None)
        parser.add_argument(option.flag, *option.also, **how, help=text)
    if command.uses_workflow:
        parser.add_argument("--cores", default="1", help="number of parallel jobs (default: %(default)s)")
        parser.add_argument("--configfile", type=Path, help="configuration that a new results folder starts from")
    arguments = parser.parse_args(words)
    for option in command.options:
        if option.rejected and is_given(option, arguments):
            raise UserError(f"{option.flag}: {option.rejected}")
    return arguments


def is_given(option: Option, arguments: argparse.Namespace) -> bool:
    """Whether an option has a value, its default included."""
    value = getattr(arguments, option.name)
    return value is not None and value is not False


def find_results(command: Command, arguments: argparse.Namespace) -> Path:
    """The folder of results, through links; relative to here if it is below. Raises UserError if nothing names it."""
    named = [value for name in command.located_by if (value := getattr(arguments, name)) is not None]
    if not named:
        raise UserError(f"--{command.located_by[0].replace('_', '-')}: name it, because it locates the results")
    path = Path(named[0])
    # The link a flat calibration set was shown through says nothing: its results are in the folder of its name.
    path = path.with_suffix("").resolve() if path.suffix == ".npz" else path.resolve()
    path = path.parents[command.levels - 1] if command.levels else path
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def read_settings(results: Path, command: Command, arguments: argparse.Namespace) -> Settings:
    """The settings of the results or, of new ones, those of `--configfile` if there is one.

    Raises UserError if a command that does not start a folder of results finds none.
    """
    kept = results / "config.yaml"
    if kept.is_file():
        return yaml.safe_load(kept.read_text(encoding="utf-8"))
    if not command.uses_workflow or (command.starts and arguments.configfile is None):
        return {}
    if arguments.configfile is None:
        raise UserError(f"{kept} is missing; run generate_calibration_data first, or name a file with --configfile")
    if not arguments.configfile.is_file():
        raise UserError(f"--configfile: {arguments.configfile} is missing")
    return yaml.safe_load(arguments.configfile.read_text(encoding="utf-8"))


def add_base(settings: Settings) -> Settings:
    """`settings` over `config/config.yaml`, as Snakemake lays them."""
    return yaml.safe_load(Path("config/config.yaml").read_text(encoding="utf-8")) | settings


def complete(settings: Settings) -> Settings:
    """The whole configuration. Raises ValueError, in one line, for a value that cannot be had."""
    return configuration.complete(add_base(settings), configuration.load_schema())


def reject_conflicts(settings: Settings, results: Path, overwrites: bool) -> None:
    """Raise UserError if trajectories, or blocks unless `overwrites`, are there that other settings made.

    And ValueError for settings that cannot be had."""
    config, prompts = configuration.load(add_base(settings))
    for conflict in plan.find_conflicts(results, plan.select_stage(CollectShard, config, prompts)):
        raise UserError(f"{conflict}; name another folder")
    blocks = plan.select_parameters("optimise_block", config, prompts)
    for conflict in () if overwrites else block_plan.find_conflicts(results / "adaround", blocks):
        raise UserError(f"{conflict}; name another folder, or delete {results / 'adaround'}")


def reject_differing(given: list[Option], arguments: argparse.Namespace, recorded: Path) -> None:
    """Raise UserError for an option that says something else than what the trajectories were recorded with."""
    for option in given:
        for key in option.sets:
            parameters, value = read_json(recorded), getattr(arguments, option.name)
            wanted = read_prompts(Path(value))[: parameters["trajectories"]] if key == "prompts" else value
            if parameters[key] != wanted:
                raise UserError(f"{option.flag}: the trajectories have {plan.shorten(parameters[key])}, not {value}")


def pass_on(option: Option, value: Any) -> list[str]:
    """An option's words on the current command line."""
    return [option.passes, str(value)] if option.passes else list(option.adds)


def list_links(
    command: Command, given: list[Option], arguments: argparse.Namespace, results: Path
) -> Iterator[tuple[Path, Path]]:
    """What is to be shown under the names the originals gave it: link and target."""
    for name, target in command.links:
        yield results / name, results / target
    for option in given:
        if option.shows:
            yield Path(getattr(arguments, option.name)), results / option.shows
