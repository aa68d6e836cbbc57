"""A short part of the campaign of damaged files, with every file in its table."""

import random

import pytest

from tools.faults import corruptions, harm
from tools.faults.artefacts import READERS, find_pattern, list_readers

pytestmark = [pytest.mark.slow, pytest.mark.whole]

# Jobs that read fast, and whose inputs are made fast again.
RULES = {"collect_shard", "gather_calibration", "merge_activations", "pack_weights", "write_quant_config"}
MAKERS = {"write_parameters", "encode_prompts", "collect_activations", "create_store"}
PLANTED = 14


def test_every_file_has_a_rule_and_a_reader_in_the_table(run):
    for name in run.list_files():
        assert find_pattern(name) in READERS
        assert run.find_producer(name) is not None, name


def test_damage_is_named_and_repaired(warm_run, tmp_path):
    run = warm_run
    repair, planted = corruptions.Repair(run), 0
    for damage in harm.choose_damages(run, random.Random(0)):
        readers = list_readers(run, damage.names[0])
        jobs = [*readers, *map(run.find_producer, damage.names)]
        if not readers or {job.rule for job in jobs} - RULES - MAKERS:
            continue
        results = tmp_path / str(planted) / "results"
        assert corruptions.judge_directly(run, repair, damage, results) == "", damage
        planted += 1
        if planted == PLANTED:
            break
    assert planted == PLANTED
