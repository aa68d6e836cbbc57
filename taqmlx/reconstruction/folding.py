"""Search of the folds of a block: the one whose rounded block has the least output error on calibration rows.

Only the layers that a fold changes are quantized, with RTN by their rules; a centre changes no weight, so that only
inputs are. A fold is kept if it lowers the error on held-out rows too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from taqmlx.mmdit.folds import apply_fold
from taqmlx.numerics.folding import choose_scales, sort_channels
from taqmlx.numerics.input_quantizer import InputQuantizer, create_quantizer, has_steps
from taqmlx.numerics.weight_grid import choose_grid, dequantize, round_to_grid
from taqmlx.planning.folds import FoldKind, Site
from taqmlx.planning.layer_rules import UNQUANTIZED, InputRule, LayerRule, LayerRules, search_unweighted
from taqmlx.reconstruction.block_assembly import list_own_linears, modulate_rows, read_weights
from taqmlx.reconstruction.block_problem import BlockProblem, measure_errors
from taqmlx.reconstruction.input_quantizers import Extremes, bind_to_rows, calibrate, observe_inputs
from taqmlx.store.folds_file import Fold

# Exponents (alpha, beta) of the channels' absmax and of the weight columns that read them. The first are SmoothQuant's,
# with beta = 1 - alpha; those without the weights are AWQ's.
EXPONENTS = ((0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (1.0, 0.0), (0.5, 0.0), (0.25, 0.0))
UNROUNDED: LayerRule = {"weight": {"bits": UNQUANTIZED}, "activation": {"bits": UNQUANTIZED}}


def search_fold(
    model: Any, problem: BlockProblem, modulation: np.ndarray, site: Site, kind: FoldKind, rules: LayerRules, seed: int
) -> tuple[Fold | None, BlockProblem]:
    """The fold of `kind` at `site` with the least error, which `model` then has, and its problem; None if none gains.

    problem: of the block with the model's weights; modulation (R, D): inputs of its adaLN layers.
    """
    own = limit_rules(site, kind, rules, problem)
    if all(rule == UNROUNDED for rule in own.values()):
        return None, problem
    heads, seen = model.config.num_heads, observe_inputs(problem, problem.training)
    before, weights = find_absmax(problem, site, seen), dict(tree_flatten(model.parameters()))
    start, least, best = measure(problem, own, problem.training, seed), np.inf, None
    centres = find_centres(problem, site, seen)
    for vector in propose(problem, site, kind, before, centres, heads, seed):
        changed = apply_fold(weights, site, kind, vector, heads)
        folded = refresh(replace_weights(model, changed), problem, modulation)
        error = measure(folded, own, problem.training, seed)
        if error < min(start, least):
            least, best = error, (vector, changed, folded)
        replace_weights(model, {name: weights[name] for name in changed})
    if best is None:
        return None, problem
    vector, changed, folded = best
    errors = (measure(problem, own, problem.held_out, seed), measure(folded, own, problem.held_out, seed))
    if errors[1] >= errors[0]:
        return None, problem
    replace_weights(model, changed)
    after = find_absmax(folded, site, observe_inputs(folded, folded.training))
    return Fold(site.name, kind, vector, before, after, errors), folded


def limit_rules(site: Site, kind: FoldKind, rules: LayerRules, problem: BlockProblem) -> dict[str, LayerRule]:
    """`rules` of what a fold at `site` changes, adaLN layers excepted; the rest of the block is unrounded."""
    changed = {layer.name for layer in (*site.readers, *site.writers)}
    own = {name: rules[name] if name in changed else UNROUNDED for name in problem.weights}
    if kind == "centre":
        return {name: {"weight": UNROUNDED["weight"], "activation": rule["activation"]} for name, rule in own.items()}
    return own


def replace_weights(model: Any, weights: dict[str, mx.array]) -> Any:
    """`model` with these weights by path."""
    model.load_weights(list(weights.items()), strict=False)
    return model


def refresh(model: Any, problem: BlockProblem, modulation: np.ndarray) -> BlockProblem:
    """`problem` with the weights, biases and adaLN outputs that `model` has."""
    weights, biases = read_weights(model, list_own_linears(model, problem.block.name))
    outputs = {
        stream: modulate_rows(weights, biases, problem.block.name, stream, modulation)
        for stream in problem.block.streams
    }
    return replace(
        problem,
        weights={name: weights[name] for name in problem.weights},
        biases={name: biases[name] for name in problem.biases},
        rows=problem.rows._replace(modulations=outputs),
    )


def measure(problem: BlockProblem, rules: LayerRules, where: np.ndarray, seed: int) -> float:
    """Error of the block, relative and summed over streams, on the rows at `where`, with layers rounded by `rules`."""
    quantizers = choose_quantizers(problem, {name: rule["activation"] for name, rule in rules.items()}, seed)
    weights = {name: round_weight(weight, rules[name]) for name, weight in problem.weights.items()}
    return sum(measure_errors(problem, weights, bind_to_rows(quantizers), where).values())


def choose_quantizers(problem: BlockProblem, rules: Mapping[str, InputRule], seed: int) -> dict[str, InputQuantizer]:
    """Quantizer of each reader's input. The rows are observed only if a rule has step sizes."""
    if any(map(has_steps, rules.values())):
        return calibrate(problem, rules, seed)[0]
    return {key: create_quantizer(rules[key]) for key in problem.readers.values()}


def round_weight(weight: mx.array, rule: LayerRule) -> mx.array:
    """A weight (out, in) rounded by RTN on the grid of its rule, without inputs in the search of a weighted range."""
    if rule["weight"]["bits"] == UNQUANTIZED:
        return weight
    exact, grid = np.array(weight), choose_grid(weight, search_unweighted(rule["weight"]))
    return mx.array(dequantize(round_to_grid(exact, grid), grid))


def find_absmax(problem: BlockProblem, site: Site, seen: Mapping[str, Extremes]) -> np.ndarray:
    """Absmax float32 (D,) of the channels of the input of `site`, over the rows and its streams."""
    extremes = [seen[problem.readers[layer.name]] for layer in site.readers]
    absmax: np.ndarray = np.max([np.maximum(-part.minimum, part.maximum).max(axis=0) for part in extremes], axis=0)
    return absmax.astype(np.float32)


def find_centres(problem: BlockProblem, site: Site, seen: Mapping[str, Extremes]) -> list[np.ndarray]:
    """Centres float32 (D,) of the channels of the input of `site`: of their whole ranges, and the mean of the rows'."""
    extremes = [seen[problem.readers[layer.name]] for layer in site.readers]
    low, high = (np.concatenate(parts) for parts in zip(*(own[:2] for own in extremes), strict=True))
    whole, mean = (low.min(axis=0) + high.max(axis=0)) / 2, (low.mean(axis=0) + high.mean(axis=0)) / 2
    return [whole.astype(np.float32), mean.astype(np.float32)]


def propose(
    problem: BlockProblem,
    site: Site,
    kind: FoldKind,
    absmax: np.ndarray,
    centres: list[np.ndarray],
    heads: int,
    seed: int,
) -> Iterator[np.ndarray]:
    """Vectors (D,) to try, as in `mmdit/folds.py`."""
    columns = np.max([np.abs(np.array(problem.weights[layer.name])).max(axis=0) for layer in site.readers], axis=0)
    if kind == "scale":
        for alpha, beta in EXPONENTS:
            yield choose_scales(absmax, columns, alpha, beta)
    elif kind == "centre":
        yield from centres
    elif kind == "permutation":
        span = len(absmax) // heads if site.role == "o" else len(absmax)
        for key in (columns, absmax, columns * absmax):
            yield sort_channels(key, span)
    else:
        yield np.ones(len(absmax), np.float32)
        yield np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), len(absmax))
