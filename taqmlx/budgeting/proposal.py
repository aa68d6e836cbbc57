"""Setting of a configuration that fits given hours and disk: keys are lowered in turn until it does.

For the disk, the block inputs are first captured in more groups, which repeats forwards and keeps the results.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from taqmlx.budgeting.stages import Stage, find_peak
from taqmlx.planning import plan

# Limits of keys, applied one after the other, where no number of groups fits the disk. A word is a value, not a limit.
# Captured points matter less than prompts (docs/results.md); steps and the distillation take little of the disk.
DISK_LIMITS: tuple[Mapping[str, Any], ...] = (
    *({"statistics_shards": 1}, {"capture_points": 128}, {"trajectories": 128}),
    *({"capture_points": 64}, {"trajectories": 64}, {"capture_points": 42}, {"steps": 14}, {"distil": "none"}),
)
# In this order: the work that the quality depends on least, by the tables of docs/evening.md, is cut first.
HOURS_LIMITS: tuple[Mapping[str, Any], ...] = (
    {"statistics_points": 512},
    {"steps": 28},
    {"fold_points": 4},
    {"search_probes": 8},
    {"steps": 14},
    {"search_points": 32},
    {"search_probes": 4},
    {"adaround_iterations": 1000},
    {"distil_iterations": 100},
    {"adaround_iterations": 500},
    {"trajectories": 128},
    {"adaround_iterations": 250},
    {"trajectories": 64},
    {"engine": "gptq", "distil": "none"},
)
# With fewer iterations: a code moves by the product of rate and iterations (docs/evening.md).
FEW_ITERATIONS: Mapping[str, Any] = {"adaround_rate": 0.03, "adaround_step_rate": 0.001}


class Proposal(NamedTuple):
    """A configuration with its stages."""

    config: plan.Parameters
    stages: list[Stage]

    @property
    def hours(self) -> float:
        """Hours of all stages whose time is known, one job at a time."""
        return sum(stage.seconds for stage in self.stages if math.isfinite(stage.seconds)) / 3600

    @property
    def disk(self) -> float:
        """Largest number of bytes on disk at any time."""
        return find_peak(self.stages)


def lower(config: plan.Parameters, limits: Mapping[str, Any]) -> plan.Parameters:
    """`config` with values above `limits` lowered to them; a number of points of 0 stands for all."""
    lowered = {
        key: limit if isinstance(limit, str) else min(config[key] or limit, limit) for key, limit in limits.items()
    }
    if lowered.get("adaround_iterations", config["adaround_iterations"]) < config["adaround_iterations"]:
        lowered |= FEW_ITERATIONS
    return config | lowered | {"selected_steps": min(config["selected_steps"], lowered.get("steps", config["steps"]))}


def list_lowered(config: plan.Parameters, limits: Sequence[Mapping[str, Any]]) -> Iterator[plan.Parameters]:
    """Yield `config`, then what each further limit makes of it."""
    yield config
    for limit in limits:
        config = lower(config, limit)
        yield config


def list_group_counts(config: plan.Parameters) -> list[int]:
    """Numbers of capture groups from the configuration's to one per block, each with a smaller largest group."""
    blocks = len(plan.list_block_names(config["model"]))
    return sorted({max(config["capture_groups"], -(-blocks // size)) for size in range(1, blocks + 1)})


def propose(
    config: plan.Parameters, hours: float, disk: float, plan_stages: Callable[[plan.Parameters], list[Stage]]
) -> Proposal:
    """The first setting within `hours` and `disk` (bytes); the smallest of all if none is.

    plan_stages: the stages of a configuration.
    """
    groups = list_group_counts(config)

    def fit_disk(lowered: plan.Parameters) -> Proposal:
        """With as few capture groups as the disk allows: each more repeats forwards."""
        grouped = (lowered | {"capture_groups": count} for count in groups)
        return select_first((Proposal(each, plan_stages(each)) for each in grouped), lambda each: each.disk <= disk)

    smaller = (fit_disk(each) for each in list_lowered(config, DISK_LIMITS))
    start = select_first(smaller, lambda each: each.disk <= disk).config
    shorter = (fit_disk(each) for each in list_lowered(start, HOURS_LIMITS))
    return select_first(shorter, lambda each: each.hours <= hours and each.disk <= disk)


def select_first(proposals: Iterator[Proposal], fits: Callable[[Proposal], bool]) -> Proposal:
    """The first of at least one proposal that fits, or the last."""
    for each in proposals:
        if fits(each):
            break
    return each
