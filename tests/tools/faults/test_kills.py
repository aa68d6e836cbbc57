"""A short part of the campaigns of kills and locks: prompts to calibration, and one block."""

import random

import pytest

from tests.support.workflow_run import FOLDS, WEIGHTS
from tools.faults.kills import kill_workers, kill_workflows, list_attacks
from tools.faults.locks import DEAD, REFUSED, STOPPED, pair_workers, pair_workflows, stop_first
from tools.faults.workflow_kills import ALONE, EVERYONE, ONE
from tools.faults.working_copy import Job, make_reference

pytestmark = [pytest.mark.slow, pytest.mark.whole]

TARGETS = ("results/calibration.zarr", "results/adaround/mm_00.safetensors")
SMALL = {"trajectories": 2, "capture_shards": 1, "weights": WEIGHTS, "folds": FOLDS}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return make_reference(tmp_path_factory.mktemp("kills") / "undisturbed", TARGETS, **SMALL)


def test_killed_workers_end_with_the_same_bytes(reference, tmp_path):
    outcomes = list(kill_workers(reference, 6, 0, tmp_path))
    assert len(outcomes) >= 6
    assert [outcome for outcome in outcomes if not outcome.survived] == []


def test_a_run_killed_repeatedly_ends_with_the_same_bytes(reference, tmp_path):
    outcomes = list(kill_workflows(reference, 2, 0, tmp_path, TARGETS))
    assert {outcome.fault for outcome in outcomes} <= {EVERYONE, ALONE, ONE}
    assert len(outcomes) >= 2
    assert [outcome for outcome in outcomes if not outcome.survived] == []


def test_every_rule_is_killed_before_any_is_killed_twice():
    jobs = [Job(rule, f"{rule} {number}", ()) for rule in ("gather_calibration", "score") for number in range(3)]
    attacks = list_attacks(jobs, random.Random(0))
    assert {next(attacks).rule for _ in range(2)} == {"gather_calibration", "score"}


@pytest.fixture
def copy(reference, tmp_path):
    return reference.duplicate(tmp_path / "copy")


def choose(copy, rule):
    return next(job for job in copy.list_jobs() if job.rule == rule)


@pytest.mark.parametrize(("rule", "fault"), [("collect_shard", STOPPED), ("optimise_block", DEAD)])
def test_a_second_worker_waits_for_the_first_even_if_the_first_dies(copy, rule, fault):
    outcome = stop_first(copy, copy.read_tree(), choose(copy, rule), fault)
    assert outcome.survived, outcome.note


def test_two_workers_of_one_job_leave_the_correct_bytes(copy):
    outcome = pair_workers(copy, copy.read_tree(), choose(copy, "encode_prompts"), random.Random(0))
    assert outcome.survived, outcome.note


def test_a_second_snakemake_is_rejected(copy):
    outcome = pair_workflows(copy, copy.read_tree(), REFUSED, random.Random(0))
    assert outcome.survived, outcome.note
