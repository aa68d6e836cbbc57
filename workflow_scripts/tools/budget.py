"""Estimate the jobs, work, hours, memory and disk of every stage of a configuration, before a run.

Jobs, forwards, operations and disk follow from the configuration. Hours and memory come from a cost table; with
--measure the hours are scaled by a few steps of the model's transformer on this machine. Hours on other devices follow
from their speeds; --device gives them by stage. Exits with 1 if the disk is too small.

With --hours, --disk or --evening (6 hours and 20 GB), proposes the setting that fits, and writes it with --out.
"""

import argparse
import math
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import yaml

from taqmlx.budgeting.devices import DEVICES, Device, time_stages
from taqmlx.budgeting.proposal import Proposal, propose
from taqmlx.budgeting.shapes import ModelShapes, read_shapes
from taqmlx.budgeting.stages import Stage, count_missing, find_peak, list_export_stages, list_mflux_stages, list_stages
from taqmlx.budgeting.tables import format_bytes, tabulate, tabulate_devices
from taqmlx.budgeting.work import estimate_rates
from taqmlx.mmdit.footprint import check_forward
from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.sampling import bind_step
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.schedule import draw_noise, start_latents
from taqmlx.planning import configuration, plan
from taqmlx.planning.documents import Config
from taqmlx.planning.plain_files import read_plain
from taqmlx.planning.stage_groups import ModelOptions
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError

DEFAULT = Path("config/config.yaml")
LARGEST_CONFIG = 1 << 20  # bytes
MEASURED_STEPS = 2
EVENING_HOURS, EVENING_DISK = 6.0, 20e9
UNITS = {"M": 1e6, "G": 1e9, "T": 1e12}
# What makes a model smaller than any proposal, by the key that it has.
SMALLER = {"height": "lower height and width", "use_t5": "disable T5 (use_t5: false)"}


def main(arguments: argparse.Namespace) -> None:
    config, prompts = read_configuration(arguments)
    shapes = read_shapes(config)
    step = measure_step(config, shapes) if arguments.measure else None
    device, on_gpu = find_device(arguments.device), mx.default_device().type == mx.gpu

    def plan_stages(config: plan.Parameters) -> list[Stage]:
        stages = list_stages(config, prompts, shapes, estimate_rates(config, shapes.sizes, step, on_gpu=on_gpu))
        stages = time_stages(stages, device) if device else stages
        exports = list_export_stages(config, shapes) if arguments.exports else []
        return stages + exports + list_mflux_stages(config, shapes)

    asked = read_limits(arguments)
    if asked:
        proposal = find_proposal(config, asked, plan_stages)
        config, stages = proposal.config, proposal.stages
    else:
        stages = plan_stages(config)
    source = describe_device(device) if device else estimate_rates(config, shapes.sizes, step, on_gpu=on_gpu).source
    print("\n".join(tabulate(stages)))
    print("forwards: rows (one latent with one prompt) through the transformer; a gradient counts as two more")
    print(f"hours: one job at a time, {source}")
    print(f"memory: per job, estimated, computing in {8 * shapes.itemsize} bits")
    print(f"disk: including temporary files, at most {format_bytes(find_peak(stages))} at a time\n")
    print("\n".join(tabulate_devices(stages)))
    if arguments.out:
        write_proposal(arguments.out, config, stages, source)
    reject_full_disk(stages, Path(config["results_dir"]))


def find_device(name: str | None) -> Device | None:
    """The device of a name, or None without one. Raises UserError for one that is not in the table."""
    if name and name not in DEVICES:
        raise UserError(f"--device: {name} is not in the table; choose one of {', '.join(DEVICES)}")
    return DEVICES[name] if name else None


def describe_device(device: Device) -> str:
    """How the hours on a device are estimated."""
    return f"on {device.name}, estimated: {device.share:.0%} of its {device.basis} TFLOP/s, which is assumed"


def read_limits(arguments: argparse.Namespace) -> tuple[float, float] | None:
    """Hours and bytes asked for, infinite where not asked for; None without any."""
    hours, disk = arguments.hours, arguments.disk
    if arguments.evening:
        hours, disk = hours or EVENING_HOURS, disk or EVENING_DISK
    return (hours or math.inf, disk or math.inf) if hours or disk else None


def find_proposal(
    config: plan.Parameters, asked: tuple[float, float], plan_stages: Callable[[plan.Parameters], list[Stage]]
) -> Proposal:
    """The setting that fits hours and bytes. Raises UserError if none does."""
    proposal = propose(config, *asked, plan_stages)
    if proposal.hours > asked[0] or proposal.disk > asked[1]:
        limits = [f"{asked[0]:g} hours"] * math.isfinite(asked[0]) + [format_bytes(asked[1])] * math.isfinite(asked[1])
        cures = ["allow more", *(cure for key, cure in SMALLER.items() if key in plan.MODEL_KEYS[config["model"]])]
        raise UserError(
            f"no configuration fits {' and '.join(limits)}; the smallest that budget tries takes {proposal.hours:.3g}"
            f" hours and {format_bytes(proposal.disk)}; {', or '.join(cures)}"
        )
    changed = {key: value for key, value in proposal.config.items() if value != config[key]}
    print("proposed: " + (", ".join(f"{key}={value}" for key, value in changed.items()) or "no change is needed"))
    return proposal


def write_proposal(path: Path, config: plan.Parameters, stages: Sequence[Stage], source: str) -> None:
    """Write the values of `config` that differ from the default file, with a results_dir of its own."""
    default, _ = load_files([])
    proposal = Proposal(config, list(stages))
    own = {key: value for key, value in config.items() if value != default[key]}
    own["results_dir"] = f"results/{path.stem}"
    words = f"# Proposed by budget: {proposal.hours:.3g} hours, {source}; {format_bytes(proposal.disk)} of disk.\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words + yaml.safe_dump(own, sort_keys=False, allow_unicode=True), encoding="utf-8")
    log.info(f"wrote {path}")


def read_configuration(arguments: argparse.Namespace) -> tuple[plan.Parameters, list[str]]:
    """The configuration, merged as Snakemake does: the default file, the given files, then single keys.

    Raises UserError, in one line, for invalid values.
    """
    return load_files(arguments.configfile, arguments.config)


def load_files(files: Sequence[Path], pairs: Sequence[str] = ()) -> tuple[plan.Parameters, list[str]]:
    """Configuration and prompts of the default file, `files` and single keys, as of `read_configuration`."""
    config: Config = {}
    for path in dict.fromkeys([DEFAULT, *files]):
        try:
            config |= read_yaml(read_plain(path, LARGEST_CONFIG).decode("utf-8")) or {}
        except (OSError, TypeError, ValueError):
            raise UserError(f"--configfile: {path} is not a readable YAML file of keys and values") from None
    try:
        config |= dict(read_pair(pair) for pair in pairs)
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
    return float(min(seconds[1:]) / rows)


def read_bytes(text: str) -> float:
    """Bytes of a number with M, G or T, such as 20G. Raises ArgumentTypeError for anything else, and for 0."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([MGT])B?", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text} is not a size; write a number above 0 with M, G or T, such as 20G")
    return float(found[1]) * UNITS[found[2]]


def read_hours(text: str) -> float:
    """Hours above 0. Raises ArgumentTypeError for anything else."""
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not a time; write a number of hours above 0, such as 6")


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
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], help="files that override the default")
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="keys that override the files")
    parser.add_argument("--exports", action="store_true", help="include the output of the target exports")
    parser.add_argument("--measure", action="store_true", help="time a few steps of the model on this machine")
    parser.add_argument("--device", help=f"hours by stage of a device: {', '.join(DEVICES)}")
    parser.add_argument("--hours", type=read_hours, help="propose a configuration of at most this number of hours")
    parser.add_argument("--disk", type=read_bytes, help="propose a configuration of at most this disk, such as 20G")
    parser.add_argument("--evening", action="store_true", help="the same as --hours 6 --disk 20G")
    parser.add_argument("--out", type=Path, help="write the proposal as a configuration file")
    run(main, parser)
