"""The candidate roundings are measured on held-out points, and the best is kept."""

import copy
import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.numerics.weight_grid import choose_grid, dequantize, round_to_grid
from taqmlx.planning.stage_groups import Gptq, Rtn
from taqmlx.reconstruction.block_problem import measure_errors, run_rows, take_rows
from taqmlx.reconstruction.candidates import (
    Candidate,
    Learning,
    choose_candidate,
    learn_rounding,
    list_candidates,
    measure_candidate,
    round_to_nearest,
)
from taqmlx.reconstruction.input_quantizers import bind_to_rows, leave_unrounded
from taqmlx.reconstruction.migration import migrate, migrate_weights
from taqmlx.reconstruction.state_arrays import pack_state, unpack_state
from tests.support.blocks import ACTIVATION, SETTINGS, UNQUANTIZED, ignore_progress, quantize_nothing, set_up

ENGINES = {"rtn": Rtn(), "gptq": Gptq(gptq_damping=SETTINGS.gptq_damping), "adaround": SETTINGS}


def run_engine(study, engine, **changes):
    problem, _, grids, quantizers = study
    return list_candidates(problem, grids, quantizers, replace(ENGINES[engine], **changes), ignore_progress())


def total(errors):
    return sum(errors["quantized_inputs"].values())


class TestEngines:
    def test_each_engine_follows_the_simpler_ones(self, study):
        for engine, expected in (
            ("rtn", ["rtn"]),
            ("gptq", ["rtn", "gptq"]),
            ("adaround", ["rtn", "gptq", "adaround"]),
        ):
            shorter = {"adaround_iterations": 1} if engine == "adaround" else {}
            assert [found.engine for found in run_engine(study, engine, **shorter)] == expected

    def test_every_candidate_has_codes_on_the_grids_of_all_layers(self, study):
        _, _, grids, quantizers = study
        for found in run_engine(study, "adaround"):
            assert list(found.codes) == list(grids)
            assert found.quantizers.keys() == quantizers.keys()
            for name, codes in found.codes.items():
                assert codes.dtype == np.uint8
                assert codes.max() <= 2 ** grids[name].bits - 1
            assert len(found.losses) == (6 if found.engine == "adaround" else 0)

    def test_the_rtn_candidate_has_the_nearest_codes(self, study):
        problem, _, grids, quantizers = study
        found = round_to_nearest(problem, grids, quantizers)
        assert found.quantizers is quantizers
        for name, codes in found.codes.items():
            np.testing.assert_array_equal(codes, round_to_grid(np.array(problem.weights[name]), grids[name]))

    def test_gptq_is_better_than_rtn_on_held_out_points(self, study):
        problem, _, grids, _ = study
        nearest, gptq = (total(measure_candidate(problem, grids, found)) for found in run_engine(study, "gptq"))
        assert gptq < 0.8 * nearest

    @pytest.mark.parametrize("start", ["gptq", "full_precision"])
    def test_learning_starts_at_the_configured_codes(self, study, start):
        """Before it has moved: GPTQ's codes, or those of rounding to nearest."""
        nearest, gptq, found = run_engine(study, "adaround", adaround_start=start, adaround_rate=1e-12)
        expected = {"gptq": gptq, "full_precision": nearest}[start]
        share = np.mean([np.mean(codes == expected.codes[name]) for name, codes in found.codes.items()])
        assert share > 0.999  # except weights halfway between two levels

    def test_learning_resumes_from_a_state_and_reports_its_progress(self, study):
        problem, _, grids, _ = study
        first, states, losses = run_engine(study, "gptq")[1], [], []

        def keep(state):
            states.append(copy.deepcopy(unpack_state(pack_state(state))))

        whole = learn_rounding(problem, grids, first, SETTINGS, Learning(None, keep, losses.append))
        assert losses == whole.losses
        assert [state.iteration for state in states] == [2, 4, 6]
        others = []
        learning = Learning(states[0], lambda state: None, others.append)
        again = learn_rounding(problem, grids, first, SETTINGS, learning)
        assert all((again.codes[name] == codes).all() for name, codes in whole.codes.items())
        assert others == losses[2:]
        assert again.losses == whole.losses

    def test_learned_step_sizes_belong_to_the_candidate(self, study):
        quantizers = study[3]
        before = {key: np.array(part.steps) for key, part in quantizers.items()}
        _, gptq, learned = run_engine(study, "adaround", adaround_step_rate=0.1)
        assert gptq.quantizers is quantizers
        for key, steps in before.items():
            np.testing.assert_array_equal(np.array(quantizers[key].steps), steps)
            assert (np.array(learned.quantizers[key].steps) != steps).any()

    @pytest.mark.parametrize("changes", [{"weight": UNQUANTIZED}, {"weight": UNQUANTIZED, "activation": UNQUANTIZED}])
    @pytest.mark.parametrize("start", ["gptq", "full_precision"])
    def test_a_block_without_quantized_weights_is_accepted(self, captured, changes, start):
        problem, rules = captured.pose(**changes)
        grids, quantizers, _ = set_up(problem, rules)
        settings = replace(SETTINGS, adaround_start=start)
        found = list_candidates(problem, grids, quantizers, settings, ignore_progress())
        errors = [total(measure_candidate(problem, grids, candidate)) for candidate in found]
        assert all(candidate.codes == {} for candidate in found)
        assert np.isfinite(errors).all()

    def test_the_last_block_is_measured_by_its_image(self, captured):
        problem, rules = captured.pose("mm_04")
        grids, quantizers, _ = set_up(problem, rules)
        for candidate in list_candidates(problem, grids, quantizers, SETTINGS, ignore_progress()):
            assert measure_candidate(problem, grids, candidate)["quantized_inputs"].keys() == {"image"}


class TestMeasuring:
    def test_errors_are_those_of_held_out_rows_at_inference(self, study):
        problem, _, grids, quantizers = study
        found = round_to_nearest(problem, grids, quantizers)
        weights = {name: mx.array(dequantize(codes, grids[name])) for name, codes in found.codes.items()}
        rows = take_rows(problem.rows, problem.held_out)
        errors = measure_candidate(problem, grids, found)
        for way, quantize in (
            ("quantized_inputs", bind_to_rows(quantizers)(rows)),
            ("full_precision_inputs", leave_unrounded(quantizers)),
        ):
            outputs = run_rows(problem, weights, quantize, rows)
            for stream, target in (("image", rows.image_target), ("text", rows.text_target)):
                slow = mx.square(outputs[stream] - target).sum() / mx.square(target).sum()
                assert errors[way][stream] == pytest.approx(slow.item(), rel=1e-4)

    def test_training_rows_do_not_affect_the_errors(self, study):
        problem, _, grids, quantizers = study
        found = round_to_nearest(problem, grids, quantizers)
        before = measure_candidate(problem, grids, found)
        image = problem.rows.image.copy()
        image[problem.training] = np.nan
        spoilt = replace(problem, rows=problem.rows._replace(image=image))
        assert measure_candidate(spoilt, grids, found) == before

    def test_a_layer_without_a_grid_stays_in_full_precision(self, captured):
        problem, rules = captured.pose(weight=UNQUANTIZED, activation=UNQUANTIZED)
        _, quantizers, _ = set_up(problem, rules)
        errors = measure_candidate(problem, {}, Candidate("rtn", {}, quantizers))
        exact = measure_errors(problem, problem.weights, lambda rows: quantize_nothing, problem.held_out)
        assert errors == {"quantized_inputs": exact, "full_precision_inputs": exact}

    def test_a_migrated_input_is_measured_with_its_migrated_weight(self, captured):
        """With fine weights and inputs, the migration alone: nothing is lost."""
        rule = {"activation": ACTIVATION | {"migration": True}}
        weight = {"bits": 8, "group_size": 32, "symmetric": False, "range": "absmax"}
        problem, rules = captured.pose(weight=weight, others={"fc2": rule})
        _, quantizers, observed = set_up(problem, rules)
        activations = {name: rule["activation"] for name, rule in rules.items()}
        quantizers = migrate(problem, quantizers, observed, activations, replace(SETTINGS, adaround_iterations=20))
        assert any(part.migration is not None for part in quantizers.values())
        problem = replace(problem, weights=migrate_weights(problem.weights, problem.readers, quantizers))
        grids = {name: choose_grid(value, weight) for name, value in problem.weights.items()}
        errors = measure_candidate(problem, grids, round_to_nearest(problem, grids, quantizers))
        assert max(errors["full_precision_inputs"].values()) < 1e-4
        assert max(errors["quantized_inputs"].values()) < 1e-3


class TestChoosing:
    @staticmethod
    def choose(*pairs):
        """The place chosen of candidates with these errors, image and text."""
        errors = [
            {"quantized_inputs": {"image": image, "text": text}, "full_precision_inputs": {"image": 0, "text": 0}}
            for image, text in pairs
        ]
        return choose_candidate([Candidate(str(i), {}, {}) for i in range(len(pairs))], errors)

    def test_the_smallest_error_over_both_streams_wins(self):
        assert self.choose((0.3, 0.3), (0.1, 0.6), (0.2, 0.3)) == 2

    def test_of_equal_errors_the_simplest_candidate_wins(self):
        assert self.choose((0.2, 0.3), (0.3, 0.2), (0.25, 0.25)) == 0
        assert self.choose((0.3, 0.3), (0.2, 0.2), (0.2, 0.2)) == 1

    def test_a_non_finite_error_never_wins(self):
        for broken in (math.nan, math.inf):
            assert self.choose((0.3, 0.3), (0.2, 0.2), (broken, 0.1)) == 1
            assert self.choose((broken, 0.3), (0.2, 0.2)) == 1

    def test_the_choice_uses_errors_with_quantized_inputs(self):
        errors = [
            {"quantized_inputs": {"image": 0.2}, "full_precision_inputs": {"image": 0.9}},
            {"quantized_inputs": {"image": 0.3}, "full_precision_inputs": {"image": 0.1}},
        ]
        assert choose_candidate([Candidate("rtn", {}, {})] * 2, errors) == 0

    @pytest.mark.parametrize(
        "sabotage",
        [{"adaround_rate": 100.0}, {"adaround_step_rate": 3.0}, {"adaround_rate": 100.0, "adaround_drop": 0.9}],
    )
    def test_a_worse_learned_candidate_is_not_chosen(self, study, sabotage):
        problem, _, grids, _ = study
        found = run_engine(study, "adaround", **sabotage)
        errors = [measure_candidate(problem, grids, candidate) for candidate in found]
        assert total(errors[2]) > total(errors[0])
        assert found[choose_candidate(found, errors)].engine == "gptq"
        without = [found[0], found[2]], [errors[0], errors[2]]
        assert without[0][choose_candidate(*without)].engine == "rtn"
