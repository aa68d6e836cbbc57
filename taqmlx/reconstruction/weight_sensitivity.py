"""Error of a block's outputs and of the velocity when the weight of one of its layers is quantized with RTN."""

from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics.weight_grid import Grid, choose_grid, dequantize, round_to_grid
from taqmlx.planning.bit_choices import WIDTHS, Choice
from taqmlx.planning.documents import WeightSensitivity
from taqmlx.planning.layer_rules import UNQUANTIZED, LayerRules, WeightRule, search_unweighted
from taqmlx.planning.layers import Layer
from taqmlx.reconstruction.block_assembly import modulate_rows, read_weights
from taqmlx.reconstruction.block_problem import BlockProblem, Quantize, Rows
from taqmlx.reconstruction.sensitivity import Change, Finish, compare_streams, identity, list_kept, measure_changes

# Rule for unquantized layers where a small perturbation of the whole block is needed.
_SLIGHTLY: WeightRule = {"bits": 8, "group_size": "row", "symmetric": False, "range": "absmax"}


def measure_weights(
    model: Transformer,
    problem: BlockProblem,
    layers: Sequence[Layer],
    rules: LayerRules,
    modulation: np.ndarray,
    finish: Finish,
    where: np.ndarray,
) -> dict[str, WeightSensitivity]:
    """Error of quantizing each quantized layer of the block alone to each of WIDTHS, in the sensitivity file's format.

    layers: the block's linears, including adaLN; modulation (R, D): adaLN inputs. Errors of the streams are measured on
    all rows, those of the velocity, computed by `finish`, on the rows at `where`. Raises ValueError for a weight that
    no grid can represent.
    """
    linears = [layer for layer in layers if layer.name in problem.weights]
    every = np.arange(len(problem.rows.sigma_index))
    measured: dict[str, WeightSensitivity] = {}
    for layer in layers:
        rule = rules[layer.name]["weight"]
        if rule["bits"] == UNQUANTIZED:
            continue
        weights, grids = round_by_width(model, layer, rule)
        changes, kept = bind_changes(model, problem, layer, weights, modulation), list_kept(linears, [layer])
        errors = measure_changes(problem, every, kept, changes, compare_streams).relate()
        errors |= measure_changes(problem, where, kept, changes, finish).relate()
        measured[layer.name] = {
            "elements": weights[0].size,
            "config_bits": rule["bits"],
            "errors": {
                str(grid.bits): {"bits_per_weight": Choice(grid.bits, grid.group_size).bits_per_weight}
                | {name: float(values[index]) for name, values in errors.items()}
                for index, grid in enumerate(grids)
            },
        }
    return measured


def round_by_width(model: Transformer, layer: Layer, rule: WeightRule) -> tuple[list[mx.array], list[Grid]]:
    """Weight of a layer quantized with RTN by `rule` at each of WIDTHS instead of its own bits, and the grids."""
    weight = read_weights(model, [layer])[0][layer.name]
    rounded = [round_weight(weight, {**rule, "bits": bits}) for bits in WIDTHS]
    return [weight for weight, _ in rounded], [grid for _, grid in rounded]


def round_weight(weight: mx.array, rule: WeightRule) -> tuple[mx.array, Grid]:
    """`weight` (out, in) quantized with RTN on the grid of `rule`, fp32, and the grid. Raises ValueError.

    Inputs are left out of the search of a weighted range.
    """
    grid = choose_grid(weight, search_unweighted(rule))
    return mx.array(dequantize(round_to_grid(np.array(weight), grid), grid)), grid


def bind_changes(
    model: Transformer, problem: BlockProblem, layer: Layer, weights: Sequence[mx.array], modulation: np.ndarray
) -> list[Change]:
    """Changes that replace the weight of a layer, one for each of `weights` (out, in)."""
    if layer.role == "adaLN":
        parts = [modulate(model, layer, weight, modulation) for weight in weights]
        return [replace_parts(problem, {}, {layer.stream: values}) for values in parts]
    return [replace_parts(problem, {layer.name: weight}, {}) for weight in weights]


def modulate(model: Transformer, layer: Layer, weight: mx.array, modulation: np.ndarray) -> np.ndarray:
    """Output of an adaLN layer with `weight`, for all rows: (R, 1, n D)."""
    _, biases = read_weights(model, [layer])
    return modulate_rows({layer.name: weight}, biases, layer.block, layer.stream, modulation)


def replace_parts(
    problem: BlockProblem, weights: Mapping[str, mx.array], modulations: Mapping[str, np.ndarray]
) -> Change:
    """Change that replaces weights by layer name, and adaLN outputs for all rows by stream."""
    changed = problem.weights | dict(weights)

    def change(rows: Rows[mx.array], where: np.ndarray) -> tuple[Mapping[str, mx.array], Quantize, Rows[mx.array]]:
        own = {stream: mx.array(values[where]) for stream, values in modulations.items()}
        return changed, identity, rows._replace(modulations=dict(rows.modulations) | own)

    return change


def round_block(
    model: Transformer, problem: BlockProblem, layers: Sequence[Layer], rules: LayerRules, modulation: np.ndarray
) -> Change:
    """Change that quantizes the whole block with RTN by its rules; unquantized layers get 8 bits."""
    weights, _ = read_weights(model, list(layers))
    chosen = {name: rules[name]["weight"] for name in weights}
    rounded = {
        name: round_weight(weight, _SLIGHTLY if chosen[name]["bits"] == UNQUANTIZED else chosen[name])[0]
        for name, weight in weights.items()
    }
    modulations = {
        layer.stream: modulate(model, layer, rounded[layer.name], modulation)
        for layer in layers
        if layer.role == "adaLN"
    }
    return replace_parts(problem, {name: rounded[name] for name in problem.weights}, modulations)
