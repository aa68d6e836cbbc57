"""The inputs of a block after quantized blocks are the outputs of these."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.blocks import find_block
from taqmlx.numerics.weight_grid import choose_grid, dequantize, round_to_grid
from taqmlx.reconstruction.block_assembly import assemble_problem, list_own_linears, read_weights
from taqmlx.reconstruction.block_problem import run_rows, take_rows
from taqmlx.reconstruction.block_task import list_inputs
from taqmlx.reconstruction.candidates import round_to_nearest
from taqmlx.reconstruction.input_quantizers import bind_to_rows
from taqmlx.reconstruction.migration import migrate, migrate_weights
from taqmlx.reconstruction.propagation import dequantize_block, propagate
from taqmlx.store.block_file import BlockFile, LayerWeight, read_block, write_block
from tests.support.blocks import ACTIVATION, LATENT_SHAPE, SETTINGS, UNQUANTIZED, WEIGHT, set_up

BLOCK = "mm_01"
FC2 = "mm_01.image.mlp.fc2"


def make_file(rules, weights, inputs, sigmas):
    parameters = {"stage": "optimise_block", "block": BLOCK, "layers": rules}
    return BlockFile(weights, inputs, sigmas, {"parameters": parameters})


def round_modulation(captured, rules):
    """The adaLN weights with less than 16 bits by RTN, by name."""
    weights, _ = read_weights(captured.model, list_own_linears(captured.model, BLOCK))
    rounded = {}
    for name, weight in weights.items():
        if "adaLN" in name and rules[name]["weight"]["bits"] < 16:
            grid = choose_grid(weight, rules[name]["weight"])
            rounded[name] = LayerWeight(grid, round_to_grid(np.array(weight), grid))
    return rounded


class Predecessor:
    """mm_01 rounded to nearest, with and without its file."""

    def __init__(self, captured, **changes):
        others = {"adaLN_modulation": {"weight": WEIGHT | {"bits": 4}, "activation": UNQUANTIZED}}
        self.captured = captured
        problem, self.rules = captured.pose(BLOCK, **{"others": others | changes.pop("others", {})} | changes)
        _, quantizers, observed = set_up(problem, self.rules)
        activations = {name: rule["activation"] for name, rule in self.rules.items()}
        settings = replace(SETTINGS, adaround_iterations=20)
        self.quantizers = migrate(problem, quantizers, observed, activations, settings)
        self.problem = replace(problem, weights=migrate_weights(problem.weights, problem.readers, self.quantizers))
        self.grids = {
            name: choose_grid(weight, self.rules[name]["weight"])
            for name, weight in self.problem.weights.items()
            if self.rules[name]["weight"]["bits"] < 16
        }
        self.best = round_to_nearest(self.problem, self.grids, self.quantizers)
        self.modulation = round_modulation(captured, self.rules)

    def list_weights(self):
        return self.modulation | {n: LayerWeight(self.grids[n], codes) for n, codes in self.best.codes.items()}

    def make_file(self):
        inputs = list_inputs(self.problem, self.best.quantizers)
        return make_file(self.rules, self.list_weights(), inputs, self.problem.sigmas)

    def run(self):
        """The outputs of the quantized block, computed from the quantizers and codes themselves."""
        weights, _ = read_weights(self.captured.model, list_own_linears(self.captured.model, BLOCK))
        rounded = {n: mx.array(dequantize(part.codes, part.grid)) for n, part in self.list_weights().items()}
        states, everything = self.captured.states, np.arange(60)
        problem = assemble_problem(
            self.captured.model, self.problem.block, self.rules, weights | rounded, states[1], states[2],
            self.captured.modulation, self.captured.sigmas, (everything, everything),
        )  # fmt: skip
        rows = take_rows(problem.rows, everything)
        return run_rows(problem, self.problem.weights | rounded, bind_to_rows(self.quantizers)(rows), rows)


def propagate_from(captured, file, where=slice(None)):
    streams = tuple(part[where] for part in captured.states[1])
    block = find_block(captured.model, BLOCK, LATENT_SHAPE)
    return propagate(captured.model, block, file, streams, captured.modulation[where], captured.sigmas[where])


CASES = {
    "by noise level": {},
    "static": {"activation": ACTIVATION | {"policy": "static"}},
    "dynamic": {"activation": ACTIVATION | {"policy": "dynamic"}},
    "weights alone": {"activation": UNQUANTIZED},
    "migrated": {"others": {"fc2": {"activation": ACTIVATION | {"migration": True, "bits": 5}}}},
    "values apart": {"others": {"image.attn.v_proj": {"activation": ACTIVATION | {"bits": 4}}}},
}


@pytest.mark.parametrize("case", CASES)
def test_the_next_input_is_the_output_of_the_quantized_block(captured, case):
    before = Predecessor(captured, **CASES[case])
    if case == "migrated":
        assert any(part.migration is not None for part in before.quantizers.values())
    found, expected = propagate_from(captured, before.make_file()), before.run()
    for part, name, exact in zip(found, ("image", "text"), captured.states[2], strict=True):
        assert part.dtype == np.float16
        assert part.shape == exact.shape
        np.testing.assert_allclose(part, np.array(expected[name]), rtol=1e-3, atol=1e-3)
        assert np.square(part.astype(np.float32) - exact).mean() > 1e-4  # which is not what full precision gives


def test_a_block_file_gives_the_same_outputs(captured, tmp_path):
    before = Predecessor(captured, **CASES["migrated"])
    file = before.make_file()
    path = tmp_path / f"{BLOCK}.safetensors"
    write_block(path, file.weights, file.inputs, file.sigmas, file.seal["parameters"], {})
    for found, expected in zip(propagate_from(captured, read_block(path)), propagate_from(captured, file), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_unquantized_block_gives_the_captured_inputs_of_the_next(captured):
    _, rules = captured.pose(BLOCK, weight=UNQUANTIZED, activation=UNQUANTIZED)
    found = propagate_from(captured, make_file(rules, {}, {}, np.unique(captured.sigmas)[::-1]))
    for part, exact in zip(found, captured.states[2], strict=True):
        np.testing.assert_allclose(part, exact, rtol=2e-3, atol=2e-3)


def test_the_outputs_of_a_row_do_not_depend_on_its_batch(captured):
    """Nor on how many noise levels these have, if the steps are the same at all; except rounding.

    Rounding can carry an input over the edge between two codes, which moves what its row gives by a part of a step.
    """
    file = Predecessor(captured, **CASES["static"]).make_file()
    whole, part = propagate_from(captured, file), propagate_from(captured, file, slice(3, 20))
    for all_rows, some, exact in zip(whole, part, captured.states[2], strict=True):
        difference = np.abs(some.astype(np.float32) - all_rows[3:20])
        assert np.quantile(difference, 0.99) <= 4e-3  # what fp16 rounds
        assert difference.max() <= 0.1 * np.abs(all_rows[3:20] - exact[3:20].astype(np.float32)).max()


def test_weights_outside_the_file_are_those_of_the_model(captured):
    before = Predecessor(captured, others={"fc1": {"weight": UNQUANTIZED}})
    weights, _ = read_weights(captured.model, list_own_linears(captured.model, BLOCK))
    found = dequantize_block(captured.model, before.make_file())
    assert found.keys() == weights.keys()
    same = {name for name in found if mx.array_equal(found[name], weights[name])}
    assert same == {f"{BLOCK}.{stream}.mlp.fc1" for stream in ("image", "text")}
