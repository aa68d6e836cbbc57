"""Forwards and floating-point operations of each stage, counted from the shapes of the layer registry.

A forward is one row through the transformer: one latent under one prompt. A product and its sum are two operations.
Products of matrices are counted, element-wise operations are not. A gradient counts as two further forwards: one for
the layer inputs, one for the weights.
"""

import math
from typing import NamedTuple

from taqmlx.budgeting import work
from taqmlx.budgeting.jobs import count_observed, is_run
from taqmlx.budgeting.shapes import ModelShapes
from taqmlx.planning import block_plan, plan
from taqmlx.planning.capture_groups import count_passes
from taqmlx.planning.layers import UNIFIED, Layer

PER_ROW = ("adaLN", "embedder")  # roles of the layers with one token per row, except the context embedder
HALF, SINGLE = "fp16", "fp32"  # precisions on a GPU


class RowFlops(NamedTuple):
    """Operations of a row: of the linear layers of the blocks, without adaLN, of the others, and of the attention."""

    linear: float
    others: float
    attention: float

    @property
    def blocks(self) -> float:
        """Operations of the blocks, without adaLN."""
        return self.linear + self.attention

    @property
    def total(self) -> float:
        """Operations of a whole forward."""
        return self.blocks + self.others


class StageWork(NamedTuple):
    """Work of a stage: forwards, operations, and the share of these in 16 bits on a GPU."""

    forwards: float
    flop: float
    half: float = 0


def count_tokens(layer: Layer, shapes: ModelShapes) -> int:
    """Tokens of a row that a layer reads."""
    image, text = shapes.image[0], shapes.text[0]
    if layer.name == "context_embedder":
        return text
    if layer.role in PER_ROW:
        return 1
    return {"text": text, UNIFIED: image + text}.get(layer.stream, image)


def count_row(shapes: ModelShapes) -> RowFlops:
    """Operations of one row: every linear, and the two products of the attention of each block."""
    linear = others = 0.0
    for layer in shapes.layers:
        flop = 2.0 * math.prod(shapes.weights[layer.name]) * count_tokens(layer, shapes)
        if layer.block and layer.role != "adaLN":
            linear += flop
        else:
            others += flop
    tokens, width = shapes.image[0] + shapes.text[0], shapes.image[1]
    return RowFlops(linear, others, len(list_block_names(shapes)) * 4.0 * tokens**2 * width)


def list_block_names(shapes: ModelShapes) -> set[str]:
    """Names of the blocks."""
    return {layer.block for layer in shapes.layers if layer.block}


def count_encoding(config: plan.Parameters, prompts: int, conditions: int) -> float:
    """Operations of the text encoders: two per parameter and token, for `prompts` prompts and the negative prompt."""
    parameters, tokens = (work.select_encoders(config, key) for key in ("encoder_parameters", "encoder_tokens"))
    per_text = sum(2 * size * count for size, count in zip(parameters, tokens, strict=True))
    return per_text * (prompts + conditions - 1)


def count_work(config: plan.Parameters, prompts: int, shapes: ModelShapes) -> dict[str, StageWork]:
    """Work of each stage that computes, by rule, for `prompts` prompts in the file."""
    row, conditions = count_row(shapes), shapes.conditions
    points, _, observed = count_observed(config)
    captured = conditions * min(config["capture_points"], points)
    learned = block_plan.count_iterations(config) * block_plan.count_rows(config) * (1 + work.GRADIENT)
    in_blocks = work.PASSES * captured + learned
    is_half = config["learning_dtype"] != "float32"  # of the linear layers that learn, not of those of the teacher
    half_in_blocks = is_half * learned * row.linear / (in_blocks * row.blocks)
    distilled = work.count_distilling(config, shapes.sizes)
    student = work.count_student(config, shapes.sizes) / distilled
    half_of_student = is_half * student * (row.linear + row.others) / row.total

    def forward(points: float, half: float = 0) -> StageWork:
        return StageWork(conditions * points, conditions * points * row.total, half)

    # A search passes the rows through one block at a time.
    folded, searched = conditions * config["fold_points"], work.count_folding(config) / len(list_block_names(shapes))

    found = {
        "encode_prompts": StageWork(0, count_encoding(config, min(prompts, config["trajectories"]), conditions), 1),
        "collect_shard": forward(config["trajectories"] * config["steps"], 1),
        "collect_activations": forward(observed),
        "capture_blocks": forward(captured / conditions * count_passes(config)),
        "fold_model": StageWork(folded * (1 + searched), folded * (row.total + searched * row.blocks)),
        "measure_costs": forward(work.count_searching(config, shapes.sizes)),
        "optimise_block": StageWork(in_blocks, in_blocks * row.blocks, half_in_blocks),
        "round_shared": forward(min(config["search_points"], points)),
        "distil": forward(distilled, half_of_student),
    }
    return {name: own for name, own in found.items() if is_run(name, config)}
