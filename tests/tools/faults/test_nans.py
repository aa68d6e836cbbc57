"""A short part of the campaign of non-finite values."""

import random

import pytest

from tools.faults import nans

pytestmark = [pytest.mark.slow, pytest.mark.whole]

PLACES = {
    ("the transformer's weights", "collect_shard"),
    ("states", "gather_calibration"),
    ("calibration points", "collect_activations"),
    ("observed activations", "merge_activations"),
    ("a quantized block", "distil"),
    ("the distilled model", "pack_weights"),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return nans.copy_package(tmp_path_factory.mktemp("package"))


@pytest.mark.parametrize("value", nans.VALUES)
def test_a_non_finite_value_is_stopped_where_it_appears(warm_run, tmp_path, package, value):
    cases = [case for case in nans.CASES if (case.place, case.rule) in PLACES]
    for case in random.Random(value).sample(cases, 2):
        note = nans.judge(warm_run, case, nans.VALUES[value], random.Random(value), tmp_path / case.rule, package)
        assert note == "", case
