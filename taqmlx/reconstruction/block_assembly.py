"""Assembly of a block's reconstruction problem from a model, captured rows and rules."""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Block, resolve_module
from taqmlx.mmdit.forward import resolve_bias
from taqmlx.mmdit.transformer import Transformer, list_layers
from taqmlx.numerics.selection import hold_out_groups
from taqmlx.planning.layer_rules import LayerRules
from taqmlx.planning.layers import Layer
from taqmlx.reconstruction.block_problem import BlockProblem, Rows, measure_powers
from taqmlx.store.errors import UserError


def list_own_linears(model: Transformer, block: str) -> list[Layer]:
    """Linear layers of one block, including adaLN."""
    layers = list_layers(model)
    return [layer for layer in layers if layer.block == block]


def read_weights(model: Transformer, layers: list[Layer]) -> tuple[dict[str, mx.array], dict[str, mx.array | None]]:
    """Weights (out, in) and biases (out,) or None of the layers by name, fp32."""
    weights = {layer.name: resolve_module(model, layer.path)["weight"].astype(mx.float32) for layer in layers}
    biases = {layer.name: resolve_bias(model, layer) for layer in layers}
    return weights, {name: None if bias is None else bias.astype(mx.float32) for name, bias in biases.items()}


def group_readers(layers: list[Layer], rules: LayerRules) -> dict[str, str]:
    """First layer with the same input and the same input rule, for each layer; these layers share a quantizer."""
    first: dict[str, str] = {}
    readers = {}
    for layer in layers:
        identity = f"{layer.input} {sorted(rules[layer.name]['activation'].items())}"
        readers[layer.name] = first.setdefault(identity, layer.name)
    return readers


def split_points(points: np.ndarray, prompts: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training rows and of held-out rows, out of R rows; whole prompts are held out.

    points and prompts (R,): point and prompt of each row. With a single prompt, points are held out instead; the rows
    of a point stay together. Raises UserError if there is only one point.
    """
    if len(np.unique(points)) < 2:
        raise UserError("a block needs at least 2 points, one of them held out; raise capture_points or trajectories")
    held_out = hold_out_groups(prompts if len(np.unique(prompts)) > 1 else points, share, seed)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def modulate_rows(
    weights: Mapping[str, mx.array], biases: Mapping[str, mx.array | None], block: str, stream: str, rows: np.ndarray
) -> np.ndarray:
    """adaLN output of one stream for adaLN inputs `rows` (R, D), float32 (R, 1, n D)."""
    name = f"{block}.{stream}.adaLN_modulation"
    y, bias = mx.array(rows) @ weights[name].T, biases[name]
    return np.array(y if bias is None else y + bias)[:, None]


def assemble_problem(
    model: Transformer,
    block: Block,
    rules: LayerRules,
    modulation_weights: Mapping[str, mx.array],
    streams: tuple[np.ndarray, np.ndarray],
    targets: tuple[np.ndarray, np.ndarray | None],
    modulation: np.ndarray,
    sigmas: np.ndarray,
    split: tuple[np.ndarray, np.ndarray],
) -> BlockProblem:
    """Reconstruction problem of `block`.

    modulation_weights: adaLN weights (n D, D) to use, by name; streams and targets: image (R, N, D) and text (R, T, D);
    modulation (R, D): inputs of the adaLN linears; sigmas (R,); split: training rows and held-out rows.
    """
    own = list_own_linears(model, block.name)
    weights, biases = read_weights(model, own)
    levels = np.unique(sigmas)[::-1]
    modulations = {
        stream: modulate_rows(modulation_weights, biases, block.name, stream, modulation) for stream in block.streams
    }
    rows = Rows(*streams, modulations, *targets, np.searchsorted(-levels, -sigmas))
    linears = [layer for layer in own if layer.role != "adaLN"]
    return BlockProblem(
        block=block,
        weights={layer.name: weights[layer.name] for layer in linears},
        biases={layer.name: biases[layer.name] for layer in linears},
        readers=group_readers(linears, rules),
        rows=rows,
        sigmas=levels,
        training=split[0],
        held_out=split[1],
        powers=measure_powers(rows, split[0]),
    )
