"""A short part of the campaign of failing writes."""

import random
import shutil

import pytest

from tools.faults import real_obstacles, writes

pytestmark = [pytest.mark.slow, pytest.mark.whole]

RULES = ("collect_shard", "gather_calibration", "pack_weights", "export_npz")
FAILING = 3  # of each


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to build the library that lets writes fail")
    return writes.build_library(tmp_path_factory.mktemp("library"))


@pytest.mark.parametrize("rule", RULES)
def test_a_write_that_fails_is_one_line_and_the_next_run_finishes(warm_run, library, tmp_path, rule):
    job = next(job for job in warm_run.jobs if job.rule == rule)
    changes = writes.choose_changes(warm_run, [job], library, tmp_path, random.Random(rule))
    assert len(changes) > 5
    outcomes = list(writes.fail_changes(warm_run, library, changes[:FAILING], tmp_path))
    assert [outcome.note for outcome in outcomes if not outcome.survived] == []


def test_a_limit_on_file_sizes_is_one_line(run, tmp_path):
    job = next(job for job in run.jobs if job.rule == "merge_activations")
    notes = [note for _, note in real_obstacles.limit_sizes(run, job, tmp_path)]
    assert notes == ["", ""]
