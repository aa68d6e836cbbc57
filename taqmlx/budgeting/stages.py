"""Stages of a configuration as table rows: jobs, time, memory and disk."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from taqmlx.budgeting import disk, flops, work
from taqmlx.budgeting.jobs import count_observed, list_jobs
from taqmlx.budgeting.shapes import ModelShapes
from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard

CONFIG_BYTES = 500_000  # approximate size of quant_config.json with its step sizes


class Stage(NamedTuple):
    """A stage: rule name, number of jobs, total seconds of one worker, memory of a job in bytes, bytes on disk, and the
    paths of its outputs under the results folder; forwards, operations, and the share of these in 16 bits on a GPU."""

    name: str
    jobs: int
    seconds: float
    memory: float
    disk: float
    places: tuple[str, ...]
    forwards: float = 0
    flop: float = 0
    half: float = 0


TEMPORARY, LAST_READER = "capture_blocks", "optimise_block"  # its output is deleted after this stage

# Output paths under the results folder, by rule.
PLACES = {
    "encode_prompts": ("conditioning.safetensors", "conditioning.json"),
    "collect_shard": ("trajectories.zarr",),
    "gather_calibration": ("calibration.zarr",),
    "collect_activations": ("activations",),
    "fold_model": ("folds.safetensors",),
    "capture_blocks": ("block_inputs.zarr",),
    "measure_costs": ("weight_costs.json",),
    "optimise_block": ("adaround",),
    "round_shared": (),
    "distil": ("distilled.safetensors",),
    "pack_weights": ("quantized",),
    "write_quant_config": ("quant_config.json", "quant_config.safetensors"),
}


def list_stages(config: plan.Parameters, prompts: Sequence[str], shapes: ModelShapes, rates: work.Rates) -> list[Stage]:
    """Stages of `quant_config`."""
    written, computed = count_written(config, prompts, shapes), flops.count_work(config, len(prompts), shapes)
    idle = flops.StageWork(0, 0)
    return [
        Stage(
            name,
            jobs.count,
            jobs.count * jobs.seconds,
            jobs.memory,
            written[name],
            PLACES[name],
            *computed.get(name, idle),
        )
        for name, jobs in list_jobs(config, len(prompts), shapes.sizes, rates).items()
        if jobs.count
    ]


def count_written(config: plan.Parameters, prompts: Sequence[str], shapes: ModelShapes) -> dict[str, float]:
    """Bytes on disk written by each rule; of captured rows, those that lie there at a time."""
    parameters = plan.select_stage(CollectShard, config, prompts)
    used = len(parameters.prompts)
    stored = work.COSTS[config["model"]]["stored_over_raw"]
    points, steps, _ = count_observed(config)
    captured = min(config["capture_points"], points)
    return {
        "encode_prompts": work.count_conditioning(used, shapes.sizes),
        "collect_shard": disk.count_trajectories(parameters, shapes) * stored["trajectories"],
        "gather_calibration": disk.count_calibration(points, used, shapes) * stored["calibration"],
        "collect_activations": disk.count_statistics(steps, config["statistics_shards"], shapes),
        "capture_blocks": disk.count_rows(config, captured, shapes) * stored["block_inputs"],
        "fold_model": CONFIG_BYTES,
        "measure_costs": CONFIG_BYTES,
        "optimise_block": disk.count_blocks(config, shapes),
        "round_shared": 0,
        "distil": disk.count_blocks(config, shapes),
        "pack_weights": disk.count_packed(config, shapes),
        "write_quant_config": CONFIG_BYTES,
    }


def list_export_stages(config: plan.Parameters, shapes: ModelShapes) -> list[Stage]:
    """Additional stages of the target `exports`, without times, which depend on decoding."""
    sizes = disk.count_exports(config, shapes)
    places = {"export_samples": "samples", "export_latents": "latents", "decode_latents": "images"}
    return [
        Stage(name, 1, float("nan"), float("nan"), size, (f"exports/{places[name]}",)) for name, size in sizes.items()
    ]


def list_mflux_stages(config: plan.Parameters, shapes: ModelShapes) -> list[Stage]:
    """The stage of the target `mflux`, without a time, for a configuration in the layout of mflux; else none."""
    if config["layout"] != "mflux":
        return []
    size = disk.count_packed(config, shapes)
    return [Stage("export_mflux", 1, float("nan"), float("nan"), size, ("mflux",))]


def find_peak(stages: Sequence[Stage]) -> float:
    """Largest number of bytes on disk at any time: the captured rows are deleted once the blocks are quantized."""
    held = peak = 0.0
    for stage in stages:
        held += stage.disk
        peak = max(peak, held)
        if stage.name == LAST_READER:
            held -= sum(own.disk for own in stages if own.name == TEMPORARY)
    return peak


def count_missing(stages: Iterable[Stage], results: Path) -> float:
    """Bytes still to be written; existing outputs are deducted."""
    return sum(max(0.0, stage.disk - sum(count_held(results / place) for place in stage.places)) for stage in stages)


def count_held(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
