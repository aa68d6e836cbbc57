"""Estimate the jobs, hours, memory and disk of every stage of a configuration, before a run.

Jobs and disk follow from the configuration. Hours and memory come from a cost table; with --measure the hours are
scaled by a few steps of the model's transformer on this machine. Exits with 1 if the disk is too small.
"""

import argparse
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import yaml

from taqmlx.budgeting.shapes import ModelShapes, read_shapes
from taqmlx.budgeting.stages import Stage, count_missing, list_export_stages, list_stages
from taqmlx.budgeting.work import estimate_rates
from taqmlx.mmdit.footprint import check_forward
from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.sampling import bind_step
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.schedule import draw_noise, start_latents
from taqmlx.planning import configuration, plan
from taqmlx.planning.plain_files import read_plain
from taqmlx.planning.stage_groups import ModelOptions
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError

DEFAULT = Path("config/config.yaml")
LARGEST_CONFIG = 1 << 20  # bytes
MEASURED_STEPS = 2
COLUMNS = "{:<20} {:>6} {:>9} {:>10} {:>10}"


def main(arguments: argparse.Namespace) -> None:
    config, prompts = read_configuration(arguments)
    shapes = read_shapes(config)
    step = measure_step(config, shapes) if arguments.measure else None
    rates = estimate_rates(config, shapes.sizes, step)
    stages = list_stages(config, prompts, shapes, rates)
    stages += list_export_stages(config, shapes) if arguments.exports else []
    print("\n".join(tabulate(stages)))
    print(f"hours: one job at a time, {rates.source}")
    print(f"memory: per job, estimated, computing in {8 * shapes.itemsize} bits; disk: including temporary files")
    reject_full_disk(stages, Path(config["results_dir"]))


def read_configuration(arguments: argparse.Namespace) -> tuple[plan.Parameters, list[str]]:
    """The configuration, merged as Snakemake does: the default file, the given files, then single keys.

    Raises UserError, in one line, for invalid values.
    """
    config: dict[str, Any] = {}
    for path in dict.fromkeys([DEFAULT, *arguments.configfile]):
        try:
            config |= read_yaml(read_plain(path, LARGEST_CONFIG).decode("utf-8")) or {}
        except (OSError, TypeError, ValueError):
            raise UserError(f"--configfile: {path} is not a readable YAML file of keys and values") from None
    try:
        config |= dict(read_pair(pair) for pair in arguments.config)
        return configuration.load(config)
    except ValueError as error:
        raise UserError(str(error)) from None


def read_pair(pair: str) -> tuple[str, Any]:
    """Key and value of `key=value`, the value parsed as YAML. Raises UserError without an equals sign or for invalid
    YAML.
    """
    key, equals, value = pair.partition("=")
    if not equals:
        raise UserError(f"--config: {pair} is not key=value")
    try:
        return key, read_yaml(value)
    except ValueError:
        raise UserError(f"--config: {key} has a value that is not valid YAML; put it in quotes") from None


def read_yaml(text: str) -> Any:
    """The value of the YAML `text`. Raises ValueError if it is invalid or nested too deeply."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, AttributeError) as error:
        raise ValueError("not valid YAML") from error


def measure_step(config: plan.Parameters, shapes: ModelShapes) -> float:
    """Seconds per Euler step and trajectory on this machine, from the model's transformer on random conditions.

    Raises UserError if the weights are not on this machine or the memory is too small; nothing is downloaded.
    """
    model = find_model(config["model"], ModelOptions.take(config), config["weights_from"])
    transformer = model.load_transformer()
    rows, linear = min(2, config["batch_size"]), bind_linears(transformer)
    check_forward(transformer, model.LATENT_SHAPE, shapes.context[0], shapes.conditions * rows, "measuring a step")
    cs = mx.random.normal((rows, shapes.conditions, *shapes.context), key=mx.random.key(0))
    cs_pooled = mx.random.normal((rows, shapes.conditions, shapes.pooled), key=mx.random.key(1))
    sigmas = model.compute_sigmas(MEASURED_STEPS + 1)
    latents = start_latents(draw_noise(list(range(rows)), *model.LATENT_SHAPE), sigmas[0])
    advance = bind_step(transformer, lambda sigma: linear, cs, cs_pooled, mx.arange(rows), sigmas, config["cfg_scale"])
    seconds = []
    for index in range(MEASURED_STEPS + 1):  # the first step loads the weights and is not counted
        start = time.perf_counter()
        latents = advance(latents, index)
        mx.eval(latents)
        seconds.append(time.perf_counter() - start)
    log.info(f"{MEASURED_STEPS} steps of {rows} trajectories: {min(seconds[1:]) / rows:.3g} s per trajectory-step")
    return min(seconds[1:]) / rows


def tabulate(stages: Sequence[Stage]) -> Iterator[str]:
    """Yield the table of stages as lines of text, with a total: the largest memory, and sums of everything else."""
    yield COLUMNS.format("stage", "jobs", "hours", "memory", "disk")
    known = [stage for stage in stages if math.isfinite(stage.seconds)]
    total = Stage(
        "total",
        sum(stage.jobs for stage in stages),
        sum(stage.seconds for stage in known),
        max(stage.memory for stage in known),
        sum(stage.disk for stage in stages),
        (),
    )
    for stage in (*stages, total):
        hours, memory = format_hours(stage.seconds), format_bytes(stage.memory)
        yield COLUMNS.format(stage.name, stage.jobs, hours, memory, format_bytes(stage.disk))


def format_hours(seconds: float) -> str:
    """Hours with three digits, or a dash for an unknown time."""
    return f"{seconds / 3600:.3g}" if seconds < 3.6e6 else f"{seconds / 3600:,.0f}" if math.isfinite(seconds) else "-"


def format_bytes(count: float) -> str:
    """Bytes as MB or GB (1000 MB), or a dash for an unknown size."""
    if not math.isfinite(count):
        return "-"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def reject_full_disk(stages: Sequence[Stage], results: Path) -> None:
    """Raise UserError if the disk of `results` has no room for the output that is still missing."""
    place = next(path for path in (results.absolute(), *results.absolute().parents) if path.exists())
    needed, free = count_missing(stages, results), shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"results_dir: {results} needs {format_bytes(needed)} more and the disk of {place} has"
            f" {format_bytes(free)} free; make room, or choose a results_dir on another disk"
        )


if __name__ == "__main__":
    parser = build_parser(__doc__)
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], help="files, over the default one")
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="single keys, over the files")
    parser.add_argument("--exports", action="store_true", help="include the output of the target exports")
    parser.add_argument("--measure", action="store_true", help="time a few steps of the model on this machine")
    run(main, parser)
