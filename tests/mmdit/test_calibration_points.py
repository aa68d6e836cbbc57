"""Calibration points form batches of rows, conditions and guidance, and are held out by prompt."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.calibration_points import (
    CalibrationPoints,
    guide_conditions,
    predict_conditions,
    read_points,
    split_runs,
)
from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.numerics.selection import hold_out_groups
from taqmlx.reconstruction.block_assembly import split_points
from taqmlx.store.calibration import open_calibration
from taqmlx.store.errors import UserError
from tools.reference import FLUX, create_transformer
from tools.small_results.study import write_calibration

SIGMAS = np.array([1.0, 0.75, 0.4, 0.1], np.float32)


def make_points(model, count=12, conditions=2, shape=(4, 4, 16), prompts=4, seed=0) -> CalibrationPoints:
    """Points of noise at four levels, in turn, under random conditions of five tokens."""
    rng = np.random.default_rng(seed)
    widths = model.config.token_level_text_embed_dim, model.config.pooled_text_embed_dim
    cs, pooled = (
        rng.standard_normal((prompts, conditions, *own)).astype(np.float32) for own in ((5, widths[0]), widths[1:])
    )
    sigmas = np.resize(SIGMAS, count)
    xs = rng.standard_normal((count, *shape)).astype(np.float16)
    return CalibrationPoints(
        xs,
        1000 * sigmas,
        sigmas,
        rng.permutation(np.resize(np.arange(prompts), count)),
        lambda of: [cs[of], pooled[of]],
    )


def predict_slowly(model, linear, points, index) -> np.ndarray:
    """The velocities (C, h, w, c) of one point, a forward for each condition."""
    cs, pooled = points.read_conditions(points.prompts[[index]])
    parts = [
        predict_velocity(
            model,
            linear,
            mx.array(points.xs[[index]].astype(np.float32)),
            mx.array(cs[:, place]),
            mx.array(pooled[:, place]),
            mx.array(points.timesteps[[index]]),
            mx.zeros(1, mx.int32),
        )
        for place in range(cs.shape[1])
    ]
    return np.array(mx.concatenate(parts).astype(mx.float32))


@pytest.fixture(params=[1, 2], ids=["one condition", "two conditions"])
def study(request, transformer):
    model = create_transformer(**FLUX) if request.param == 1 else transformer
    return model, make_points(model, conditions=request.param), request.param


def test_a_batch_has_all_positives_then_all_negatives(study):
    _, points, conditions = study
    chosen = np.array([5, 2, 7])
    batch, (cs, pooled) = points.take(chosen), points.read_conditions(points.prompts[chosen])
    assert batch.rows.tolist() == list(range(3 * conditions))
    for row in range(3 * conditions):
        place, own = divmod(row, 3)
        np.testing.assert_array_equal(np.array(batch.latents[row]), points.xs[chosen[own]])
        np.testing.assert_array_equal(np.array(batch.context[row]), cs[own, place])
        np.testing.assert_array_equal(np.array(batch.pooled[row]), pooled[own, place])
        assert batch.timesteps[row].item() == points.timesteps[chosen[own]]


def test_a_batch_has_the_velocity_of_each_point_under_each_condition(study):
    model, points, conditions = study
    chosen, linear = np.array([0, 9, 3]), bind_linears(model)
    found = np.array(predict_conditions(model, linear, points.take(chosen), conditions).astype(mx.float32))
    expected = np.stack([predict_slowly(model, linear, points, index) for index in chosen], axis=1)
    assert found.shape == (conditions, 3, 4, 4, 16)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_guidance_extrapolates_from_the_negative_to_the_positive_velocity():
    velocities = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 16)).astype(np.float32)
    expected = velocities[1] + 3 * (velocities[0] - velocities[1])
    np.testing.assert_allclose(np.array(guide_conditions(mx.array(velocities), 3)), expected, atol=1e-5)


def test_with_one_condition_guidance_has_no_effect():
    velocities = mx.random.normal((1, 3, 4, 4, 16), key=mx.random.key(0))
    assert mx.array_equal(guide_conditions(velocities, 7), velocities[0])


def test_the_points_of_a_set_are_its_arrays(tmp_path):
    arrays = write_calibration(tmp_path / "calibration.zarr")
    points = read_points(open_calibration(tmp_path / "calibration.zarr"))
    for field, name in {"xs": "xs", "timesteps": "ts", "sigmas": "sigmas", "prompts": "prompt_indices"}.items():
        np.testing.assert_array_equal(getattr(points, field), arrays[name])
    for found, name in zip(points.read_conditions(np.array([2, 0, 2])), ("cs", "cs_pooled"), strict=True):
        np.testing.assert_array_equal(found, arrays[name][[2, 0, 2]])


def test_runs_have_the_requested_length_and_the_last_has_the_remainder():
    assert [run.tolist() for run in split_runs(np.arange(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]


class TestHeldOut:
    """Whole prompts, so that nothing that measures was learned from."""

    PROMPTS = np.random.default_rng(0).integers(0, 20, 300)

    @pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.125, 2), (0.5, 10), (0.99, 19)])
    def test_the_held_out_share_consists_of_whole_groups(self, share, count):
        held_out = hold_out_groups(self.PROMPTS, share, 0)
        inside, outside = set(self.PROMPTS[held_out]), set(self.PROMPTS[~held_out])
        assert (len(inside), len(outside)) == (count, 20 - count)
        assert not inside & outside

    def test_the_seed_selects_the_groups(self):
        first, again, other = (hold_out_groups(self.PROMPTS, 0.25, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    def test_the_order_and_number_of_points_do_not_change_the_selection(self):
        held_out = hold_out_groups(self.PROMPTS, 0.25, 0)
        few = np.arange(20)[::-1]
        assert set(self.PROMPTS[held_out]) == set(few[hold_out_groups(few, 0.25, 0)])

    def test_a_single_group_cannot_be_split(self):
        with pytest.raises(ValueError, match="at least 2 groups are needed to hold one out"):
            hold_out_groups(np.zeros(5), 0.5, 0)

    def test_points_are_split_by_prompt_or_with_one_prompt_by_point(self):
        points = np.arange(40) % 20  # two rows each
        training, held_out = split_points(points, points % 5, 0.2, 0)
        assert sorted([*training, *held_out]) == list(range(40))
        assert not set(points[training] % 5) & set(points[held_out] % 5)
        training, held_out = split_points(points, np.zeros(40), 0.2, 0)
        assert (len(training), len(held_out)) == (32, 8)
        assert not set(points[training]) & set(points[held_out])

    def test_a_single_point_is_rejected(self):
        with pytest.raises(UserError, match="at least 2 points, one of them held out"):
            split_points(np.zeros(2), np.zeros(2), 0.5, 0)
