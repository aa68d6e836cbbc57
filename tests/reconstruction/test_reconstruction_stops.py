"""Learning can be repeated, stopped and resumed bit for bit, and stops at a non-finite value."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics.weight_grid import round_to_grid
from taqmlx.reconstruction.flat_weights import start_at_codes, start_at_weights
from taqmlx.reconstruction.reconstruction import draw_batch
from taqmlx.reconstruction.state import start_state
from taqmlx.reconstruction.state_arrays import pack_state, unpack_state
from taqmlx.store.errors import UserError
from taqmlx.store.learning_state import read_learning, write_learning
from tests.support.blocks import SETTINGS, as_arrays, differs, learn_quietly


def assert_equal(first, second):
    first, second = as_arrays(first), as_arrays(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def with_nan(array, place):
    broken = np.array(array)
    broken[place] = np.nan
    return broken


class TestRepeating:
    @pytest.mark.parametrize("changes", [{}, {"adaround_drop": 0.5}, {"reconstruction": "separate"}])
    def test_a_seed_gives_equal_bits(self, study, flat, changes):
        problem, _, _, quantizers = study
        first, second = (learn_quietly(problem, flat, quantizers, replace(SETTINGS, **changes)) for _ in range(2))
        assert_equal(first, second)
        assert first.losses == second.losses
        assert differs(first, learn_quietly(problem, flat, quantizers, replace(SETTINGS, **changes | {"seed": 4})))

    def test_dropping_changes_the_result(self, study, flat):
        problem, _, _, quantizers = study
        plain, dropped = (
            learn_quietly(problem, flat, quantizers, replace(SETTINGS, adaround_drop=drop)) for drop in (0, 0.5)
        )
        assert differs(plain, dropped)
        assert dropped.losses[0] < plain.losses[0]  # half of the activations' error, before any weight is rounded

    def test_rows_of_quantized_blocks_are_mixed_with_those_of_full_precision(self, study):
        """QDrop over the blocks before: about the share asked for, whole otherwise, the targets as they are."""
        problem = study[0]
        clean = tuple((part + np.float16(8)).astype(np.float16) for part in problem.rows[:2])
        mixed = replace(problem, clean=clean)
        before, _ = draw_batch(problem, SETTINGS, (0, 0))
        untouched, _ = draw_batch(mixed, SETTINGS, (0, 0))
        assert mx.array_equal(before.image, untouched.image)
        rows, _ = draw_batch(mixed, replace(SETTINGS, adaround_drop=0.25), (0, 0))
        for part, plain in ((rows.image, before.image), (rows.text, before.text)):
            assert part.dtype == mx.float32
            moved = np.array(part - plain)
            assert (np.isclose(moved, 8, atol=0.01) | (moved == 0)).all()
            assert abs((moved != 0).mean() - 0.25) < 0.02
        assert mx.array_equal(rows.image_target, before.image_target)

    @pytest.mark.parametrize("start", ["full_precision", "codes"])
    @pytest.mark.parametrize(("way", "stops"), [("joint", [2, 4, 6]), ("separate", [2, 4, 6, 8, 10, 12])])
    def test_resuming_from_any_checkpoint_ends_in_the_same_arrays(self, study, tmp_path, way, stops, start):
        """As an interrupted job does: through a file, into a new state."""
        problem, _, grids, quantizers = study
        codes = {name: round_to_grid(np.array(problem.weights[name]), grid) for name, grid in grids.items()}
        flat = {
            "full_precision": lambda: start_at_weights(problem.weights, grids),
            "codes": lambda: start_at_codes(problem.weights, grids, codes),
        }[start]()
        settings = replace(SETTINGS, reconstruction=way, adaround_drop=0.2)
        paths = []

        def save(state):
            paths.append(tmp_path / f"{len(state.losses)}.safetensors")
            write_learning(paths[-1], "seal", *pack_state(state))

        whole = learn_quietly(problem, flat, quantizers, settings, save=save)
        assert [int(path.stem) for path in paths] == stops
        for path in paths:
            state = unpack_state(read_learning(path, "seal"))
            resumed = learn_quietly(problem, flat, quantizers, settings, state)
            assert_equal(resumed, whole)
            assert resumed.losses == whole.losses

    def test_a_packed_state_is_restored(self, study, flat):
        problem, _, _, quantizers = study
        state = start_state(flat, quantizers)
        settings = replace(SETTINGS, adaround_iterations=3, adaround_checkpoint_every=3)
        packed = []
        learn_quietly(problem, flat, quantizers, settings, state, lambda state: packed.append(pack_state(state)))
        numbers, arrays = packed[0]
        restored = unpack_state((numbers, arrays))
        assert_equal(restored, state)
        assert (restored.phase, restored.iteration, restored.losses) == (0, 3, state.losses)
        assert sorted(restored.adam) == ["rounding", "steps"]
        again = pack_state(restored)
        assert again[0] == numbers
        assert again[1].keys() == arrays.keys()
        assert all((again[1][key] == value).all() for key, value in arrays.items())
        assert unpack_state(None) is None


class TestBrokenValues:
    """A value that is not finite stops the job with its place, and what was saved before is whole."""

    @pytest.mark.parametrize("name", ["mm_01.text.attn.v_proj", "mm_01.image.mlp.fc1", "mm_01.text.mlp.fc2"])
    @pytest.mark.parametrize("way", ["joint", "separate"])
    def test_a_non_finite_weight_is_named(self, study, name, way):
        problem, _, grids, quantizers = study
        weights = problem.weights | {name: mx.array(with_nan(problem.weights[name], (3, 4)))}
        broken = replace(problem, weights=weights)
        flat, saved = start_at_weights(weights, grids), []
        settings = replace(SETTINGS, reconstruction=way, adaround_checkpoint_every=1)
        with pytest.raises(UserError, match=rf"^mm_01: iteration 0 .*not finite, first in {name};") as error:
            learn_quietly(broken, flat, quantizers, settings, save=saved.append)
        assert len(str(error.value).splitlines()) <= 2
        assert saved == []

    @pytest.mark.parametrize("stream", ["image_target", "text_target"])
    def test_a_non_finite_target_is_named(self, study, flat, stream):
        problem, _, _, quantizers = study
        target = with_nan(getattr(problem.rows, stream), (problem.training, 1, 2))
        broken = replace(problem, rows=problem.rows._replace(**{stream: target}))
        with pytest.raises(UserError, match=r"^mm_01: iteration 0 .*not finite, first in the targets;"):
            learn_quietly(broken, flat, quantizers, SETTINGS)

    def test_a_non_finite_input_is_named_by_its_first_layer(self, study, flat):
        problem, _, _, quantizers = study
        text = with_nan(problem.rows.text, (problem.training, 0, 0))
        broken = replace(problem, rows=problem.rows._replace(text=text))
        with pytest.raises(UserError, match=r"first in mm_01\.text\.attn\.q_proj;"):
            learn_quietly(broken, flat, quantizers, SETTINGS)

    def test_the_last_saved_state_is_finite(self, study, flat):
        """A row breaks when a later batch reads it for the first time."""
        problem, _, _, quantizers = study
        settings = replace(SETTINGS, adaround_batch=2, adaround_checkpoint_every=1, adaround_iterations=40)
        first = np.full(60, 99)
        for iteration in reversed(range(40)):
            sigma_index = np.random.default_rng((settings.seed, 0, iteration))
            first[sigma_index.choice(problem.training, 2, replace=False)] = iteration
        row = next(row for row in problem.training if 3 <= first[row] < 40)
        broken = replace(
            problem, rows=problem.rows._replace(image_target=with_nan(problem.rows.image_target, (row, 0, 0)))
        )
        saved = []
        with pytest.raises(UserError, match=rf"iteration {first[row]} .*the targets"):
            learn_quietly(broken, flat, quantizers, settings, save=lambda s: saved.append(pack_state(s)))
        assert len(saved) == first[row]
        for numbers, arrays in saved:
            assert np.isfinite(numbers["losses"]).all()
            assert all(np.isfinite(value).all() for value in arrays.values())

    def test_a_state_with_overflowed_step_sizes_is_not_saved(self, study, flat):
        problem, _, _, quantizers = study
        settings = replace(SETTINGS, adaround_step_rate=1e30, adaround_checkpoint_every=1)
        saved = []
        with pytest.raises(UserError, match="not finite"):
            learn_quietly(problem, flat, quantizers, settings, save=lambda s: saved.append(pack_state(s)[1]))
        for arrays in saved:
            steps = [np.exp(value) for key, value in arrays.items() if key.startswith("log_steps")]
            assert all(np.isfinite(step).all() and (step > 0).all() for step in steps)
