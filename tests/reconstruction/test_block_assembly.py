"""A block's problem uses the model's own weights, and its held-out points are fair."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.forward import bind_linears
from taqmlx.reconstruction.block_assembly import (
    group_readers,
    list_own_linears,
    modulate_rows,
    read_weights,
    split_points,
)
from taqmlx.store.errors import UserError
from tests.support.blocks import ACTIVATION, SIGMAS


def test_a_block_has_its_linears(captured):
    counts = {block: len(list_own_linears(captured.model, block)) for block in ("mm_00", "mm_03", "mm_04")}
    assert counts == {"mm_00": 14, "mm_03": 14, "mm_04": 11}  # two of them adaLN's
    assert all(layer.block == "mm_03" for layer in list_own_linears(captured.model, "mm_03"))


@pytest.mark.parametrize(("block", "count"), [("mm_01", 12), ("mm_04", 9)])
def test_a_problem_has_the_weights_in_fp32_without_adalns(captured, block, count):
    problem, _ = captured.pose(block)
    assert len(problem.weights) == count
    assert not any("adaLN" in name for name in problem.weights)
    assert {weight.dtype for weight in problem.weights.values()} == {mx.float32}
    assert problem.weights.keys() == problem.biases.keys() == problem.readers.keys()
    stored, biases = read_weights(captured.model, list_own_linears(captured.model, block))
    assert all(mx.array_equal(problem.weights[name], stored[name]) for name in problem.weights)
    assert problem.biases[f"{block}.image.attn.k_proj"] is biases[f"{block}.image.attn.k_proj"] is None


def test_noise_levels_decrease_and_rows_have_their_index(captured):
    problem, _ = captured.pose()
    np.testing.assert_array_equal(problem.sigmas, SIGMAS)
    np.testing.assert_array_equal(problem.sigmas[problem.rows.sigma_index], captured.sigmas)


@pytest.mark.parametrize(
    ("block", "stream", "parts"), [("mm_01", "image", 6), ("mm_01", "text", 6), ("mm_04", "text", 2)]
)
def test_the_modulation_is_the_output_of_adaln(captured, block, stream, parts):
    name = f"{block}.{stream}.adaLN_modulation"
    weights, biases = read_weights(captured.model, list_own_linears(captured.model, block))
    found = modulate_rows(weights, biases, block, stream, captured.modulation)
    assert found.shape == (60, 1, parts * 128)
    assert found.dtype == np.float32
    expected = np.array(bind_linears(captured.model)(name, mx.array(captured.modulation)))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)


def test_queries_keys_and_values_of_a_stream_share_one_reader(captured):
    readers = captured.pose()[0].readers
    for stream in ("image", "text"):
        first = f"mm_01.{stream}.attn.q_proj"
        assert [readers[f"mm_01.{stream}.attn.{part}_proj"] for part in "qkv"] == [first] * 3
    others = [name for name in readers if ".attn.q" not in name and ".attn.k" not in name and ".attn.v" not in name]
    assert all(readers[name] == name for name in others)


def test_one_input_under_two_rules_has_two_readers(captured):
    own = {"activation": ACTIVATION | {"bits": 6}}
    problem, rules = captured.pose(others={"image.attn.v_proj": own})
    readers = [problem.readers[f"mm_01.image.attn.{part}_proj"].rsplit(".", 1)[1] for part in "qkv"]
    assert readers == ["q_proj", "q_proj", "v_proj"]
    assert problem.readers == group_readers(
        [layer for layer in list_own_linears(captured.model, "mm_01") if layer.role != "adaLN"], rules
    )


class TestSplit:
    """Of 30 points, a row for each of two conditions, with 10 prompts in turn."""

    POINTS = np.tile(np.arange(30), 2)
    PROMPTS = POINTS % 10

    @pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
    @pytest.mark.parametrize("seed", range(5))
    def test_all_rows_of_a_prompt_are_on_one_side_of_the_split(self, share, seed):
        training, held_out = split_points(self.POINTS, self.PROMPTS, share, seed)
        assert sorted([*training, *held_out]) == list(range(60))
        assert not set(self.PROMPTS[training]) & set(self.PROMPTS[held_out])
        assert len(set(self.PROMPTS[held_out])) == min(max(round(share * 10), 1), 9)

    def test_the_order_of_the_points_does_not_matter(self):
        order = np.random.default_rng(0).permutation(60)
        _, held_out = split_points(self.POINTS, self.PROMPTS, 0.25, 3)
        _, shuffled = split_points(self.POINTS[order], self.PROMPTS[order], 0.25, 3)
        assert set(self.POINTS[held_out]) == set(self.POINTS[order][shuffled])

    def test_the_seed_selects_the_held_out_prompts(self):
        splits = [split_points(self.POINTS, self.PROMPTS, 0.2, seed)[1].tolist() for seed in (0, 0, 1, 2, 3)]
        assert splits[0] == splits[1]
        assert len(set(map(tuple, splits))) > 2

    @pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
    def test_two_prompts_are_split_one_and_one(self, share):
        prompts = np.array([5, 5, 2, 5, 5, 2])
        training, held_out = split_points(np.array([0, 1, 2] * 2), prompts, share, 0)
        assert {len(set(prompts[side])) for side in (training, held_out)} == {1}

    @pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
    def test_with_one_prompt_points_are_held_out_with_both_rows(self, share):
        points = np.array([4, 9, 4, 9])
        training, held_out = split_points(points, np.zeros(4), share, 0)
        assert len(training) == len(held_out) == 2
        assert {len(set(points[side])) for side in (training, held_out)} == {1}

    def test_a_single_point_is_rejected(self):
        with pytest.raises(UserError, match="capture_points"):
            split_points(np.array([3, 3]), np.array([1, 1]), 0.5, 0)
