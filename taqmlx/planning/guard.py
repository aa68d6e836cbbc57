"""Checks that stop a run before its first job: finished work to be replaced, other weights, misleading mtimes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from taqmlx.planning import block_plan, mtime_checks, plan, weight_identity
from taqmlx.planning.stages import CollectShard


def find_conflicts(config: plan.Parameters, prompts: Sequence[str]) -> Iterator[str]:
    """Yield a line per finished trajectory shard, block or block source made with other parameters than `config`."""
    results = Path(config["results_dir"])
    yield from plan.find_conflicts(results, plan.select_stage(CollectShard, config, prompts))
    blocks = plan.select_parameters("optimise_block", config, prompts)
    yield from block_plan.find_conflicts(results / "adaround", blocks)
    stages = ("gather_calibration", "capture_blocks")
    sources = [plan.select_parameters(stage, config, prompts) for stage in stages]
    yield from block_plan.find_source_conflicts(results, sources)


def find_other_weights(config: plan.Parameters) -> Iterator[str]:
    """Yield a line for each weight file that differs from the one the results were made with."""
    if plan.WEIGHTS_FROM in plan.MODEL_KEYS[config["model"]] and config["weights_from"]:
        record = Path(config["results_dir"]) / "weights.json"
        for other in weight_identity.find_other_weights(record, config["weights_from"]):
            yield f"weights_from: {other}; choose another results_dir for these weights"


def find_wrong_dates(config: plan.Parameters, now: float) -> Iterator[str]:
    """Yield lines for the first result dated in the future and for shards to be rerun because of mtimes alone.

    `now`: seconds since the epoch.
    """
    results = Path(config["results_dir"])
    yield from mtime_checks.find_future(results, now)
    if not config["overwrite"]:
        yield from mtime_checks.find_outdated_shards(results)
