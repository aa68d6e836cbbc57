"""Jobs of `quant_config` by rule: number of jobs, and time and memory of one.

Standard library only: scheduler resources are determined while a run is planned.
"""

import math
from typing import NamedTuple

from taqmlx.budgeting import work
from taqmlx.numerics.footprint import PROCESS_BYTES
from taqmlx.planning import block_plan, plan
from taqmlx.planning.capture_groups import count_passes
from taqmlx.planning.sizes import Sizes
from taqmlx.planning.step_choice import select_timesteps

OBSERVED_BATCH = 64  # largest number of points that collect_activations runs at a time
CAPTURED_BATCH = 32  # largest number of points that capture_blocks runs at a time
MERGE_SECONDS = 1
# Scheduler request relative to the estimate: a factor, and a constant for starting a job.
SPARE_MEMORY, SPARE_TIME = 1.5, 3
START_MEMORY, START_MINUTES = 600, 10  # MB and minutes, including Snakemake itself, which runs twice around a worker
GROWTH = 3  # largest factor for repeated attempts: a job with short time limits may need many


class Jobs(NamedTuple):
    """Jobs of a rule: count, seconds of one job, and bytes of memory of one job."""

    count: int
    seconds: float
    memory: float


def list_jobs(config: plan.Parameters, prompts: int, sizes: Sizes, rates: work.Rates) -> dict[str, Jobs]:
    """Jobs of each rule, for `prompts` prompts in the file."""
    jobs = (
        list_data_jobs(config, prompts, sizes, rates)
        | list_observing_jobs(config, sizes, rates)
        | list_weight_jobs(config, sizes, rates)
    )
    return {name: own if is_run(name, config) else own._replace(count=0) for name, own in jobs.items()}


def is_run(rule: str, config: plan.Parameters) -> bool:
    """True if the configuration runs the rule."""
    runs: dict[str, bool] = {
        "measure_costs": config["bits_per_weight"] is not None,
        "distil": config["distil"] != "none",
        "fold_model": bool(config["folds"]),
    }
    return runs.get(rule, True)


def list_data_jobs(config: plan.Parameters, prompts: int, sizes: Sizes, rates: work.Rates) -> dict[str, Jobs]:
    """Jobs from the prompts to the calibration set."""
    used = min(prompts, config["trajectories"])
    shards = math.ceil(used / config["prompts_per_shard"])
    widest = min(config["prompts_per_shard"], used) * math.ceil(config["trajectories"] / used)
    steps = config["trajectories"] * config["steps"]
    encoding = work.count_conditioning(1, sizes)
    forward = work.estimate_forward_memory(sizes.conditions * min(config["batch_size"], widest), sizes)
    return {
        "encode_prompts": Jobs(
            1, rates.start + used * rates.encode, work.estimate_encoding_memory(config, encoding, sizes.itemsize)
        ),
        "collect_shard": Jobs(shards, rates.start + steps * rates.step / shards, forward),
        "gather_calibration": Jobs(1, MERGE_SECONDS, PROCESS_BYTES),
    }


def list_observing_jobs(config: plan.Parameters, sizes: Sizes, rates: work.Rates) -> dict[str, Jobs]:
    """Jobs for activation statistics and captured block inputs."""
    points, steps, observed = count_observed(config)
    captured, shares = min(config["capture_points"], points), config["capture_shards"] * config["capture_groups"]
    parts, forwards = config["statistics_shards"], captured * count_passes(config)
    batch_size = min(OBSERVED_BATCH, math.ceil(observed / steps))  # points of one step
    observing, capturing = (
        work.estimate_forward_memory(work.count_batch_rows(most, count, sizes), sizes)
        for most, count in ((OBSERVED_BATCH, batch_size), (CAPTURED_BATCH, captured))
    )
    return {
        "collect_activations": Jobs(parts, rates.start + observed * rates.observe / parts, observing),
        "capture_blocks": Jobs(shares, rates.start + forwards * rates.step / shares, capturing),
    }


def count_observed(config: plan.Parameters) -> tuple[int, int, int]:
    """Number of calibration points, of observed steps among the selected ones, and of observed points."""
    points = config["trajectories"] * config["selected_steps"]
    steps = len(select_timesteps(config["statistics_steps"], range(config["selected_steps"])))
    observed = points * steps // config["selected_steps"]
    return points, steps, min(observed, config["statistics_points"] or observed)


def list_weight_jobs(config: plan.Parameters, sizes: Sizes, rates: work.Rates) -> dict[str, Jobs]:
    """Jobs from the blocks to the final quantized model."""
    blocks, iterations = len(plan.list_block_names(config["model"])), block_plan.count_iterations(config)
    block = rates.start + work.PASSES * config["capture_points"] * rates.block + iterations * rates.iteration
    checkpoint = PROCESS_BYTES + sizes.parameters * (sizes.itemsize + 2)
    searching = work.count_searching(config, sizes) * rates.step + work.GPTQ_SECONDS * sizes.parameters
    distilling = work.count_distilling(config, sizes)
    # One forward of the model gives the states between blocks.
    folding = config["fold_points"] * (rates.step + work.count_folding(config) * rates.block)
    return {
        "fold_model": Jobs(1, rates.start + folding, work.estimate_folding_memory(config, sizes)),
        "measure_costs": Jobs(1, rates.start + searching, work.estimate_searching_memory(sizes, blocks)),
        "optimise_block": Jobs(blocks, block, work.estimate_learning_memory(config, sizes)),
        "round_shared": Jobs(
            1,
            rates.start + config["search_points"] * rates.step,
            work.estimate_forward_memory(work.count_batch_rows(CAPTURED_BATCH, config["search_points"], sizes), sizes),
        ),
        "distil": Jobs(1, rates.start + distilling * rates.step, work.estimate_distilling_memory(config, sizes)),
        "pack_weights": Jobs(1, rates.start, checkpoint),
        "write_quant_config": Jobs(1, MERGE_SECONDS, PROCESS_BYTES),
    }


def ask_memory(jobs: Jobs, attempt: int) -> int:
    """Memory in MB to request from a scheduler; more for the second and third attempt."""
    return min(attempt, GROWTH) * (START_MEMORY + math.ceil(SPARE_MEMORY * jobs.memory / 1e6))


def ask_minutes(jobs: Jobs, attempt: int) -> int:
    """Minutes to request from a scheduler; more for the second and third attempt."""
    return min(attempt, GROWTH) * (START_MINUTES + math.ceil(SPARE_TIME * jobs.seconds / 60))
