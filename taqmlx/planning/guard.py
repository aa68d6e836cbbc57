"""What stops a run before its first job: finished work that it would replace, other weights, dates that mislead."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from taqmlx.planning import block_plan, dates, glimpses, plan


def find_conflicts(config: plan.Parameters, prompts: Sequence[str]) -> Iterator[str]:
    """A line for each finished trajectory, block or source of blocks in the results that this configuration would not
    make."""
    results = Path(config["results_dir"])
    yield from plan.find_conflicts(results, plan.select_parameters("collect_shard", config, prompts))
    blocks = plan.select_parameters("optimise_block", config, prompts)
    yield from block_plan.find_conflicts(results / "adaround", blocks)
    stages = ("gather_calibration", "capture_blocks")
    sources = [plan.select_parameters(stage, config, prompts) for stage in stages]
    yield from block_plan.find_source_conflicts(results, sources)


def find_other_weights(config: plan.Parameters) -> Iterator[str]:
    """A line for each file of weights that is not the one these results were made with."""
    if plan.MODEL_KEYS[config["model"]] and config["weights_from"]:
        record = Path(config["results_dir"]) / "weights.json"
        for other in glimpses.find_other_weights(record, config["weights_from"]):
            yield f"weights_from: {other}; choose another results_dir for these weights"


def find_wrong_dates(config: plan.Parameters, now: float) -> Iterator[str]:
    """A line for the first result of the future, and for shards that a date alone would make again; `now` in seconds
    since the epoch."""
    results = Path(config["results_dir"])
    yield from dates.find_future(results, now)
    if not config["overwrite"]:
        yield from dates.find_outdated_shards(results)
