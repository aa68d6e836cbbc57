"""Observations can be stored, and merge to those of all values."""

import numpy as np
import pytest

from taqmlx.numerics import observations, sketch
from taqmlx.numerics.statistics import ChannelStatistics

NAMES = ("mm_00.image.attn.qkv", "mm_00.image.mlp.fc2")


def observe(x):
    """An observation of rows x (N, D), every value in its sketch."""
    deviations = np.square(x - x.mean(axis=0)).sum(axis=0)
    channels = ChannelStatistics(len(x), int((x < 0).sum()), x.min(axis=0), x.max(axis=0), x.mean(axis=0), deviations)
    return observations.add_batch(observations.create_observation(x.shape[1]), channels, x)


@pytest.fixture
def values():
    """Two inputs at three steps, (steps, N, D)."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((3, 400, 4)) + np.arange(4) for name in NAMES}


@pytest.fixture
def parts(values):
    return [{name: [observe(step[half::2]) for step in x] for name, x in values.items()} for half in (0, 1)]


def test_stored_observations_are_read_unchanged(parts):
    arrays = observations.pack_observations(parts[0])
    again = observations.pack_observations(observations.unpack_observations(arrays))
    assert arrays.keys() == again.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, again[key])


def test_merged_shards_describe_all_values(parts, values):
    merged = observations.merge_observations(parts)
    for name, x in values.items():
        described, arrays = observations.describe_input(name, merged[name])
        numbers = described["per_step"]
        assert described["rows"] == [400] * 3
        np.testing.assert_allclose(numbers["mean"], x.mean(axis=(1, 2)))
        np.testing.assert_allclose(numbers["std"], x.std(axis=(1, 2)))
        np.testing.assert_allclose(numbers["negative_share"], (x < 0).mean(axis=(1, 2)))
        np.testing.assert_allclose(numbers["p99"], np.quantile(x, 0.99, axis=(1, 2)), rtol=0.02)
        np.testing.assert_allclose(arrays[f"{name}/std"], x.std(axis=1))
        assert described["arrays"] == sorted(arrays)


def test_quantiles_over_all_steps_are_those_of_all_values(values):
    for name, x in values.items():
        widening = x * np.array([1.0, 2.0, 4.0])[:, None, None]
        overall = observations.describe_input(name, [observe(step) for step in widening])[0]["overall"]
        assert list(overall) == ["p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99"]
        expected = np.quantile(widening, [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99])
        np.testing.assert_allclose(list(overall.values()), expected, atol=0.01 * np.ptp(expected))


def test_only_post_gelu_inputs_have_a_shift(parts):
    shifted = {name: f"{name}/shift" in observations.describe_input(name, steps)[1] for name, steps in parts[0].items()}
    assert shifted == dict(zip(NAMES, (False, True), strict=True))


def test_a_shard_may_lack_an_input(parts):
    lacking = {NAMES[0]: parts[1][NAMES[0]]}
    merged = observations.merge_observations([parts[0], lacking, {}])
    assert merged[NAMES[1]][0].channels.rows == 200
    assert merged[NAMES[0]][0].channels.rows == 400


def test_an_empty_observation_is_neutral(parts):
    empty = {name: [observations.create_observation(4)] * 3 for name in NAMES}
    merged = observations.merge_observations([empty, parts[0]])
    for name, steps in merged.items():
        for found, expected in zip(steps, parts[0][name], strict=True):
            np.testing.assert_array_equal(found.channels.maximum, expected.channels.maximum)
            np.testing.assert_allclose(
                sketch.read_quantiles(found.sketch, [0.99]), sketch.read_quantiles(expected.sketch, [0.99]), rtol=0.02
            )
