"""The stages of a configuration as the rows of a table: jobs, time, memory and disk."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from workflow_scripts import plan
from workflow_scripts.budgeting import disk, work
from workflow_scripts.budgeting.shapes import ModelShapes
from workflow_scripts.numerics.step_choice import choose_steps
from workflow_scripts.store.block_inputs import BATCH

OBSERVED_TOGETHER = 64  # points that collect_activations runs at a time
MERGE_SECONDS = 1
CONFIG_BYTES = 500_000  # quant_config.json with its step sizes, about


class Stage(NamedTuple):
    """A stage: its rule's name, jobs, seconds of one worker in all, memory of a job in bytes, bytes on disk, and where
    under the results folder these are."""

    name: str
    jobs: int
    seconds: float
    memory: float
    disk: float
    places: tuple[str, ...]


def list_stages(config: plan.Parameters, prompts: Sequence[str], shapes: ModelShapes, rates: work.Rates) -> list[Stage]:
    """What `quant_config` takes, stage by stage."""
    return [
        *list_data_stages(config, prompts, shapes, rates),
        *list_observing_stages(config, shapes, rates),
        *list_weight_stages(config, shapes, rates),
    ]


def list_data_stages(
    config: plan.Parameters, prompts: Sequence[str], shapes: ModelShapes, rates: work.Rates
) -> list[Stage]:
    """From the prompts to the calibration set."""
    parameters = plan.select_parameters("collect_shard", config, prompts)
    used, shards, count = len(parameters["prompts"]), plan.list_shards(parameters), config["trajectories"]
    stored = work.COSTS[config["model"]]["stored_over_raw"]
    encodings = disk.count_conditioning(used, shapes)
    points = count * config["selected_steps"]
    widest = max(len(plan.select_shard(parameters, shard)["rows"]) for shard in shards)
    states = disk.count_trajectories(parameters, shapes) * stored["trajectories"]
    calibration = disk.count_calibration(points, used, shapes) * stored["calibration"]
    forward = work.estimate_forward_memory(2 * min(config["batch_size"], widest), shapes, work.WIDTHS_ALIVE)
    encoding = work.estimate_encoding_memory(config, encodings, shapes.itemsize)
    conditioning = ("conditioning.safetensors", "conditioning.json")
    return [
        Stage("encode_prompts", 1, rates.start + used * rates.encode, encoding, encodings, conditioning),
        Stage(
            "collect_shard",
            len(shards),
            len(shards) * rates.start + count * config["steps"] * rates.step,
            forward,
            states,
            ("trajectories.zarr",),
        ),
        Stage("gather_calibration", 1, MERGE_SECONDS, work.PROCESS_BYTES, calibration, ("calibration.zarr",)),
    ]


def list_observing_stages(config: plan.Parameters, shapes: ModelShapes, rates: work.Rates) -> list[Stage]:
    """The statistics of what layers read, and what is captured for the blocks."""
    points = config["trajectories"] * config["selected_steps"]
    steps = len(choose_steps(config["statistics_steps"], range(config["selected_steps"])))
    observed = points * steps // config["selected_steps"]
    observed = min(observed, config["statistics_points"] or observed)
    captured, blocks = min(config["capture_points"], points), len(plan.list_blocks(config["model"]))
    parts, shares = config["statistics_shards"], config["capture_shards"]
    statistics = disk.count_statistics(steps, parts, shapes)
    stored = work.COSTS[config["model"]]["stored_over_raw"]["block_inputs"]
    together = min(OBSERVED_TOGETHER, -(-observed // steps))  # points of one step
    observing = work.estimate_forward_memory(2 * together, shapes, work.WIDTHS_OBSERVED)
    capturing = work.estimate_forward_memory(2 * min(BATCH, captured), shapes, work.WIDTHS_ALIVE)
    return [
        Stage(
            "collect_activations",
            parts,
            parts * rates.start + observed * rates.observe,
            observing,
            statistics,
            ("activations",),
        ),
        Stage(
            "capture_blocks",
            shares,
            shares * rates.start + captured * rates.step,
            capturing,
            disk.count_captured(captured, blocks, shapes) * stored,
            ("block_inputs.zarr",),
        ),
    ]


def list_weight_stages(config: plan.Parameters, shapes: ModelShapes, rates: work.Rates) -> list[Stage]:
    """From the blocks to the deliverable."""
    blocks = len(plan.list_blocks(config["model"]))
    rounds = {"joint": 1, "separate": 2}[config["reconstruction"]]
    iterations = config["adaround_iterations"] * rounds * (config["engine"] == "adaround")
    block = rates.start + work.PASSES * config["capture_points"] * rates.block + iterations * rates.iteration
    memory = work.estimate_learning_memory(config, shapes)
    checkpoint = work.PROCESS_BYTES + shapes.parameters * (shapes.itemsize + 2)
    return [
        Stage("optimise_block", blocks, blocks * block, memory, disk.count_blocks(config, shapes), ("adaround",)),
        Stage("pack_weights", 1, rates.start, checkpoint, disk.count_packed(config, shapes), ("quantized",)),
        Stage(
            "write_quant_config",
            1,
            MERGE_SECONDS,
            work.PROCESS_BYTES,
            CONFIG_BYTES,
            ("quant_config.json", "quant_config.safetensors"),
        ),
    ]


def list_export_stages(config: plan.Parameters, shapes: ModelShapes) -> list[Stage]:
    """What the target `exports` takes besides, but for the time, which decoding decides."""
    sizes = disk.count_exports(config, shapes)
    places = {"export_samples": "samples", "export_latents": "latents", "decode_latents": "images"}
    return [
        Stage(name, 1, float("nan"), float("nan"), size, (f"exports/{places[name]}",)) for name, size in sizes.items()
    ]


def count_missing(stages: Iterable[Stage], results: Path) -> float:
    """The bytes that are still to be written: what a place holds already is not counted again."""
    return sum(max(0.0, stage.disk - sum(count_held(results / place) for place in stage.places)) for stage in stages)


def count_held(path: Path) -> int:
    """The bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
