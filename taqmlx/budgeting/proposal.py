"""Setting of a configuration that fits given hours and disk: keys are lowered in turn until it does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from taqmlx.budgeting.stages import Stage, find_peak
from taqmlx.planning import plan

# Limits of keys, applied one after the other. Those for the disk come first: captured block inputs take most of it.
DISK_LIMITS: tuple[Mapping[str, Any], ...] = (
    *({"capture_points": 128}, {"capture_points": 64}, {"trajectories": 64}),
    *({"statistics_shards": 1}, {"capture_points": 42}),
)
# In this order: the work that the quality depends on least, by the curves of docs/evening.md, is cut first.
HOURS_LIMITS: tuple[Mapping[str, Any], ...] = (
    {"statistics_points": 512},
    {"steps": 28},
    {"trajectories": 64},
    {"fold_points": 4},
    {"adaround_iterations": 1000},
    {"search_probes": 8},
    {"adaround_iterations": 500},
    {"distil_iterations": 100},
    {"adaround_iterations": 250},
    {"search_points": 32},
)
# With fewer iterations: a code moves by the product of rate and iterations (docs/evening.md).
FEW_ITERATIONS: Mapping[str, Any] = {"adaround_rate": 0.03, "adaround_step_rate": 0.001}
# Instead of a limit, at the end.
WITHOUT_LEARNING: Mapping[str, Any] = {"engine": "gptq", "distil": "none"}


class Proposal(NamedTuple):
    """A configuration with its stages."""

    config: plan.Parameters
    stages: list[Stage]

    @property
    def hours(self) -> float:
        """Hours of all stages, one job at a time."""
        return sum(stage.seconds for stage in self.stages) / 3600

    @property
    def disk(self) -> float:
        """Largest number of bytes on disk at any time."""
        return find_peak(self.stages)


def lower(config: plan.Parameters, limits: Mapping[str, Any]) -> plan.Parameters:
    """`config` with values above `limits` lowered to them; a number of points of 0 stands for all."""
    lowered = {key: min(config[key] or limit, limit) for key, limit in limits.items()}
    if lowered.get("adaround_iterations", config["adaround_iterations"]) < config["adaround_iterations"]:
        lowered |= FEW_ITERATIONS
    return config | lowered | {"selected_steps": min(config["selected_steps"], lowered.get("steps", config["steps"]))}


def list_lowered(config: plan.Parameters, limits: Sequence[Mapping[str, Any]]) -> Iterator[plan.Parameters]:
    """Yield `config`, then what each further limit makes of it."""
    yield config
    for limit in limits:
        config = lower(config, limit)
        yield config


def propose(
    config: plan.Parameters, hours: float, disk: float, plan_stages: Callable[[plan.Parameters], list[Stage]]
) -> Proposal | None:
    """The first setting within `hours` and `disk` (bytes), or None. plan_stages: the stages of a configuration."""
    smaller = [Proposal(each, plan_stages(each)) for each in list_lowered(config, DISK_LIMITS)]
    start = next((each.config for each in smaller if each.disk <= disk), None)
    if start is None:
        return None
    shorter = list(list_lowered(start, HOURS_LIMITS))
    proposals = (Proposal(each, plan_stages(each)) for each in [*shorter, {**shorter[-1], **WITHOUT_LEARNING}])
    return next((each for each in proposals if each.hours <= hours and each.disk <= disk), None)
