"""The costs of a run grow no faster than its prompts: planning, gathering and memory.

`make scale` measures the same on 10,000 prompts, and more. Processor time is compared, which other work on the machine
does not change much; quadratic growth would show as a factor of SCALE.
"""

import time
import tracemalloc
from functools import partial

import pytest

from taqmlx.checks.results import Results
from taqmlx.checks.trajectories import check_counts
from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard
from taqmlx.store.parameters import read_parameters
from tools.benchmarks import scale
from tools.benchmarks.fake_denoiser import record_shards
from tools.small_results.shards import CONFIG, list_arguments, prepare, run_entry

SMALL, SCALE = 16, 4


def time_work(work) -> float:
    """The processor seconds of the fastest of three runs."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def measure_peak(work) -> int:
    """The most bytes that were allocated at once while it ran."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def list_prompts(count):
    return [f"a red circle, {i}" for i in range(count)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished shards of SMALL prompts and of SCALE times as many, one a shard, by the fake denoiser."""
    folders = []
    for count in (SMALL, SMALL * SCALE):
        folder = tmp_path_factory.mktemp(str(count))
        prepare(folder, list_prompts(count), trajectories=count, prompts_per_shard=1)
        record_shards(folder)
        folders.append(folder)
    return folders


def test_planning_grows_linearly():
    def plan_shards(count):
        parameters = plan.select_stage(CollectShard, CONFIG | {"trajectories": count}, list_prompts(count))
        return lambda: [plan.select_shard(parameters, shard) for shard in plan.list_shards(parameters)]

    small, large = (time_work(plan_shards(count)) for count in (2_000, 2_000 * SCALE))
    assert large < 2 * SCALE * small


def test_conflict_checks_and_counts_grow_linearly(runs):
    parameters = [read_parameters(CollectShard, list_arguments(folder, "collect_shard")["params"]) for folder in runs]
    for work in (
        lambda folder, stage: list(plan.find_conflicts(folder, stage)),
        lambda folder, stage: check_counts(Results(folder, folder / "trajectories.zarr", 0, 0)),
    ):
        small, large = (time_work(partial(work, *run)) for run in zip(runs, parameters, strict=True))
        assert large < 2 * SCALE * small


@pytest.mark.parametrize("name", ["gather_calibration", "verify_trajectories"])
def test_reading_all_shards_grows_linearly_in_time_and_hardly_in_memory(runs, name, tmp_path):
    seconds, peaks = [], []
    for folder in runs:
        options = {"out": tmp_path / folder.name / "calibration.zarr"} if name == "gather_calibration" else {}
        start = time.process_time()
        peaks.append(measure_peak(lambda folder=folder, options=options: run_entry(folder, name, **options)))
        seconds.append(time.process_time() - start)
    assert seconds[1] < 2 * SCALE * seconds[0]
    assert peaks[1] < 1.5 * peaks[0] + 50_000 * SMALL * (SCALE - 1)


def test_the_table_shows_costs_that_grow_faster_than_the_prompts():
    first, last, by_twenty = scale.Scale(1_000), scale.Scale(10_000), scale.Scale(10_000, 20)
    found = {
        first: {"linear: s": 2.0, "quadratic: s": 0.1, "snakemake -n: s": 4.0},
        last: {"linear: s": 20.0, "quadratic: s": 10.0, "snakemake -n: s": 31.0},
        by_twenty: {"linear: s": 1.0},
    }
    assert scale.list_failures(found) == [
        "quadratic: s: 10.00 times linear",
        "snakemake -n: s, 10,000 prompts: 31, not 30",
    ]
    assert "| linear: s | 2 | 20 | 1 | 1.00 |" in scale.format_table(found)
