"""The rules for the bits of a layer."""

from dataclasses import replace

import numpy as np
import pytest

from taqmlx.numerics.tier_rules import Evidence, choose_bits
from taqmlx.planning.stages import WriteMultitier

SIGMAS = [1.0, 0.5, 0.1]
MEASURED = WriteMultitier(
    model="embedded",
    multitier_rule="measured",
    multitier_budget=40.0,
    multitier_thresholds={"plain": [6, 10], "shifted": [5, 8]},
    weight_budget=35.0,
)
THRESHOLDS = replace(MEASURED, multitier_rule="thresholds")
ERRORS = {4: np.array([1e-5, 1e-3, 1e-1]), 6: np.array([1e-6, 1e-4, 1e-2]), 8: np.array([1e-7, 1e-5, 1e-3])}


def describe(magnitudes=(1, 1, 1), own=8, policy="lut", errors=ERRORS, is_shifted=False):
    """A layer of four channels, the last the largest."""
    channels = np.array(magnitudes, np.float32)[:, None] * np.array([0.1, 0.2, 0.3, 1])
    return Evidence(own, policy, channels, errors, {}, {}, is_shifted)


def test_measured_errors_choose_the_bits_at_each_noise_level():
    bits, reason = choose_bits(describe(), SIGMAS, MEASURED)
    assert bits.tolist() == [4, 6, 8]
    assert "8 bits at most: 6 leave an error 20.0 dB below the output at sigma 0.10" in reason
    assert "1 of 3 levels miss the 40 dB" in reason


def test_the_fewest_bits_have_a_reason():
    bits, reason = choose_bits(describe(), SIGMAS, replace(MEASURED, multitier_budget=5.0))
    assert bits.tolist() == [4, 4, 4]
    assert reason == "4 bits leave an error 10.0 dB below the output at sigma 0.10 and less elsewhere"


def test_magnitudes_do_not_matter_to_measured_bits():
    quiet, loud = (choose_bits(describe([m] * 3), SIGMAS, MEASURED)[0].tolist() for m in (0.01, 1e4))
    assert quiet == loud


def test_a_layer_without_measurements_keeps_its_bits():
    bits, reason = choose_bits(describe(errors={}), SIGMAS, MEASURED)
    assert (bits.tolist(), reason) == ([8, 8, 8], "nothing was measured for it")


def test_thresholds_compare_the_largest_channel():
    bits, reason = choose_bits(describe([5.9, 9.9, 10.1]), SIGMAS, THRESHOLDS)
    assert (bits.tolist(), reason) == ([4, 6, 8], "largest magnitude 5.90 to 10.10")


def test_a_shifted_layer_has_its_own_thresholds():
    bits, reason = choose_bits(describe([4.9, 5.9, 9.9], is_shifted=True), SIGMAS, THRESHOLDS)
    assert bits.tolist() == [4, 6, 8]
    assert reason.endswith("after the shift")


@pytest.mark.parametrize("parameters", [MEASURED, THRESHOLDS])
@pytest.mark.parametrize(("own", "expected"), [(8, [4, 6, 8]), (6, [4, 6, 6]), (5, [4, 5, 5]), (3, [3, 3, 3])])
def test_no_layer_gets_more_bits_than_before(parameters, own, expected):
    assert choose_bits(describe([1, 7, 11], own=own), SIGMAS, parameters)[0].tolist() == expected


@pytest.mark.parametrize("parameters", [MEASURED, THRESHOLDS])
def test_a_dynamic_layer_has_one_number_of_bits(parameters):
    bits, reason = choose_bits(describe([1, 7, 11], policy="dynamic"), SIGMAS, parameters)
    assert bits.tolist() == [8, 8, 8]
    assert "no table of bits" in reason
    alike = {bits: np.full(3, error) for bits, error in ((4, 1e-2), (6, 1e-5), (8, 1e-6))}
    bits, _ = choose_bits(describe([7, 8, 9], policy="dynamic", errors=alike), SIGMAS, parameters)
    assert bits.tolist() == [6, 6, 6]


def test_a_spike_does_not_reduce_the_bits():
    """Nothing scales channels down when the model runs, so what that could save is not saved."""
    even, spiked = np.full((3, 40), 7.0, np.float32), np.full((3, 40), 0.1, np.float32)
    spiked[:, 3] = 7.0
    found = [
        choose_bits(describe()._replace(channels=channels), SIGMAS, THRESHOLDS)[0].tolist()
        for channels in (even, spiked)
    ]
    assert found == [[6, 6, 6]] * 2
