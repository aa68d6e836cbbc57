"""Forward of the transformer as a chain of stages, and gradients through the chain in one of two ways.

A small model is differentiated as one lazy graph. Of a large one each stage is evaluated before the next, and only the
activations between stages are kept: a stage is computed again for its gradients (Chen et al. 2016, arXiv:1604.06174).
Then the weights that a stage restores, and their gradients, are in memory for one stage at a time. A lazy graph with
`mx.checkpoint` leaves the order to its evaluation, which computes several blocks before they are needed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from taqmlx.mmdit.blocks import Block, Linear, build_blocks
from taqmlx.mmdit.footprint import needs_recomputing
from taqmlx.mmdit.forward import advance_block, begin_blocks, finish_velocity
from taqmlx.mmdit.observe import Batch
from taqmlx.mmdit.transformer import Transformer, list_layers
from taqmlx.reconstruction.student import Learned, select_learned

# Arrays between two stages by name: `latents` (B, h, w, c), `image` (B, N, D), `text` (B, T, D), ...
Activations = dict[str, mx.array]
Run = Callable[[Learned, Activations], Activations]
BindLearned = Callable[[Learned], Linear]
LOSS = "loss"  # scalar among the last activations


class Stage(NamedTuple):
    """Part of a forward. names: layers whose parameters it reads; run: from these and activations to the next ones."""

    names: frozenset[str]
    run: Run


def list_forward(
    model: Transformer, bind: Callable[[frozenset[str]], BindLearned], batch: Batch, conditions: int
) -> Iterator[Stage]:
    """Stages from `latents` to `velocity` (C, b, h, w, c): embedders, each block, final layer.

    bind: from names of layers to a function from their learned parameters to `linear(name, x)`; the linear layers of
    `model` are not read. Of the latents of `batch` only the shape is.
    """
    names = group_names(model)
    yield Stage(names["embedder"], bind_begin(model, bind(names["embedder"]), batch))
    for block in build_blocks(model, batch.latents.shape[1:]):
        yield Stage(names[block.name], bind_block(block, bind(names[block.name]), batch))
    yield Stage(names["final"], bind_finish(model, bind(names["final"]), batch, conditions))


def group_names(model: Transformer) -> dict[str, frozenset[str]]:
    """Names of the layers of each block, of the embedders (`embedder`) and of the final layer (`final`)."""
    found: dict[str, list[str]] = {}
    for layer in list_layers(model):
        found.setdefault(layer.block or ("embedder" if layer.role == "embedder" else "final"), []).append(layer.name)
    return {unit: frozenset(names) for unit, names in found.items()}


def bind_begin(model: Transformer, bind: BindLearned, batch: Batch) -> Run:
    """`run` of the embedders: adds `image`, `text` and the adaLN inputs, `modulation` (U, D)."""

    def run(learned: Learned, before: Activations) -> Activations:
        image, text, modulation = begin_blocks(model, bind(learned), before["latents"], *batch[1:])
        return before | {"image": image, "text": text, "modulation": modulation}

    return run


def bind_block(block: Block, bind: BindLearned, batch: Batch) -> Run:
    """`run` of one block: replaces `image` and `text`; there is no text after the last block."""

    def run(learned: Learned, before: Activations) -> Activations:
        streams = before["image"], before["text"], before["modulation"]
        image, text = advance_block(bind(learned), block, *streams, batch.rows)
        rest = {name: part for name, part in before.items() if name != "text"}
        return rest | {"image": image} | ({} if text is None else {"text": text})

    return run


def bind_finish(model: Transformer, bind: BindLearned, batch: Batch, conditions: int) -> Run:
    """`run` of the final layer: `velocity` in place of `image` and `modulation`."""

    def run(learned: Learned, before: Activations) -> Activations:
        own = before["image"], before["modulation"]
        velocity = finish_velocity(model, bind(learned), *own, batch.rows, batch.latents.shape)
        rest = {name: part for name, part in before.items() if name not in ("image", "modulation")}
        return rest | {"velocity": velocity.reshape(conditions, -1, *velocity.shape[1:])}

    return run


class Strategy(NamedTuple):
    """Way to compute a chain.

    settle: called with what later computation reads. differentiate: from the stages, learned parameters, fixed ones and
    the first activations to the last ones, with a `loss`, and the gradients of that by the learned parameters.
    """

    settle: Callable[..., None]
    differentiate: Callable[[Sequence[Stage], Learned, Learned, Activations], tuple[Activations, Learned]]


def run_stages(strategy: Strategy, stages: Sequence[Stage], learned: Learned, first: Activations) -> Activations:
    """Last activations of a chain."""
    here = first
    for stage in stages:
        here = stage.run(select_learned(learned, stage.names), here)
        strategy.settle(here)
    return here


def leave_lazy(*results: Any) -> None:
    """Evaluate nothing."""


def differentiate_whole(
    stages: Sequence[Stage], learned: Learned, fixed: Learned, first: Activations
) -> tuple[Activations, Learned]:
    """Last activations and gradients, as one lazy graph."""

    def measure(moving: Learned) -> tuple[mx.array, Activations]:
        last = run_stages(WHOLE, stages, fixed | moving, first)
        return last[LOSS], last

    (_, last), gradients = mx.value_and_grad(measure)(learned)
    return last, gradients


def differentiate_by_stage(
    stages: Sequence[Stage], learned: Learned, fixed: Learned, first: Activations
) -> tuple[Activations, Learned]:
    """Last activations and gradients, evaluated stage by stage.

    Nothing before the first stage with learned parameters is kept or differentiated.
    """
    start = next(place for place, stage in enumerate(stages) if any(select_learned(learned, stage.names).values()))
    here = run_stages(BY_STAGE, stages[:start], fixed | learned, first)
    kept: list[Activations] = []
    for stage in stages[start:]:
        kept.append(here)
        here = run_stages(BY_STAGE, [stage], fixed | learned, here)
    gradients: Learned = {kind: {} for kind in learned}
    cotangents = {name: mx.full(part.shape, float(name == LOSS), part.dtype) for name, part in here.items()}
    for stage in reversed(stages[start:]):
        found, cotangents = pull_back(stage, learned, fixed, kept.pop(), cotangents)
        mx.eval(found, cotangents)
        add_learned(gradients, found)
    return here, gradients


def pull_back(
    stage: Stage, learned: Learned, fixed: Learned, before: Activations, cotangents: Activations
) -> tuple[Learned, Activations]:
    """Gradients by a stage's learned parameters and by the activations before it, from those by the ones after it."""
    rest = select_learned(fixed, stage.names)

    def weigh(own: Learned, before: Activations) -> mx.array:
        after = stage.run(rest | own, before)
        return sum(((after[name] * cotangent).sum() for name, cotangent in cotangents.items()), mx.array(0.0))

    own = select_learned(learned, stage.names)
    by_own, by_before = mx.grad(weigh, argnums=(0, 1))(own, before)
    return by_own, by_before


def add_learned(total: Learned, found: Learned) -> None:
    """Add `found` to `total`, which has only what was found before."""
    for kind, parts in found.items():
        for name, part in parts.items():
            total[kind][name] = total[kind][name] + part if name in total[kind] else part


WHOLE = Strategy(leave_lazy, differentiate_whole)
BY_STAGE = Strategy(mx.eval, differentiate_by_stage)


def choose_strategy(transformer: Transformer, latent_shape: Sequence[int], tokens: int, rows: int) -> Strategy:
    """Strategy for gradients on `rows` rows together, each a latent (h, w, c) with a text of `tokens` tokens."""
    return BY_STAGE if needs_recomputing(transformer, latent_shape, tokens, rows) else WHOLE
