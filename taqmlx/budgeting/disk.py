"""Bytes written by each stage, computed from shapes: the store's arrays before compression."""

import math

from taqmlx.budgeting.shapes import ModelShapes
from taqmlx.planning import plan
from taqmlx.planning.bit_choices import stored_bits
from taqmlx.planning.capture_groups import find_span, list_groups
from taqmlx.planning.layer_rules import UNQUANTIZED, WeightRule, find_input_rule, find_weight_rule
from taqmlx.planning.layers import AFTER_GELU
from taqmlx.planning.stages import CollectShard
from taqmlx.store import block_inputs, calibration, trajectories

FP16, FP32 = 2, 4
CHANNEL_BYTES = 24  # per channel and step: extremes in single, moments in double precision
SKETCH_BYTES = 8_800  # per tensor, step and shard: a sketch of its distribution, as measured
SHARD_BYTES = 7_000  # approximate, per shard: its seal and array metadata
RECORD_BYTES = 4_000  # approximate, per seal or report
ROW_GROUPS = (128, 64, 32)  # with group size "row", the largest of these that divides the row is used


def count_trajectories(parameters: CollectShard, shapes: ModelShapes) -> int:
    """All shards of the trajectories."""
    shards = [plan.select_shard(parameters, shard) for shard in plan.list_shards(parameters)]
    layouts = (trajectories.plan_layout(shard, shapes.latent) for shard in shards)
    return sum(block_inputs.count_bytes(layout.specs) for layout in layouts) + SHARD_BYTES * len(shards)


def count_calibration(points: int, prompts: int, shapes: ModelShapes) -> int:
    """Calibration set of `points` points, with its own copy of the encodings."""
    cs, pooled = (prompts, shapes.conditions, *shapes.context), (prompts, shapes.conditions, shapes.pooled)
    return block_inputs.count_bytes(calibration.list_specs(points, shapes.latent, cs, pooled))


def count_statistics(steps: int, parts: int, shapes: ModelShapes) -> int:
    """Statistics of every input at `steps` steps: `parts` shards with their sketches, and the merged file."""
    widths = {layer.input: shapes.weights[layer.name][1] for layer in shapes.layers}
    channels = steps * CHANNEL_BYTES * sum(widths.values())
    return channels + parts * (channels + steps * SKETCH_BYTES * len(widths))


def count_captured(points: int, span: range, blocks: int, shapes: ModelShapes) -> int:
    """Inputs and outputs at `points` points of the blocks with indices `span` of `blocks`, however many shards."""
    states = block_inputs.count_states(span, blocks)
    return block_inputs.count_bytes(
        block_inputs.list_specs(points, shapes.conditions, *states, shapes.image, shapes.text)
    )


def count_rows(config: plan.Parameters, points: int, shapes: ModelShapes) -> int:
    """Block inputs on disk at a time: those of the largest group, and of the first too if blocks are chained."""
    model, groups = config["model"], list_groups(config)
    blocks = len(plan.list_block_names(model))
    first, *others = [count_captured(points, find_span(model, group), blocks, shapes) for group in groups]
    if config["block_inputs"] == "quantized":
        return first + max(others, default=0)
    return max([first, *others])


def count_weight(shape: tuple[int, int], rule: WeightRule, bits_per_weight: float | None) -> int:
    """A weight (out, in) under its rule: codes with an fp16 scale and bias per group, or plain fp16.

    If a search chooses the bit widths, a quantized weight counts at the requested average.
    """
    out, columns = shape
    if bits_per_weight and rule["bits"] != UNQUANTIZED:
        return round(out * columns * bits_per_weight / 8)
    if rule["bits"] == UNQUANTIZED:
        return out * columns * FP16
    by_row = next((size for size in ROW_GROUPS if columns % size == 0), columns)
    group = by_row if rule["group_size"] == "row" else rule["group_size"]
    return out * columns * stored_bits(rule["bits"]) // 8 + out * (columns // group) * 2 * FP16


def count_blocks(config: plan.Parameters, shapes: ModelShapes) -> int:
    """Block files: codes, scales and biases and, for quantized inputs, step sizes and shifts."""
    total = 0
    for layer in shapes.layers:
        rule = find_weight_rule(config["weights"], layer.name)
        read = find_input_rule(config["activations"], layer.name)
        if rule["bits"] == UNQUANTIZED:
            continue
        total += count_weight(shapes.weights[layer.name], rule, config["bits_per_weight"])
        if read["bits"] != UNQUANTIZED:
            total += config["selected_steps"] * FP32
            total += shapes.weights[layer.name][1] * FP32 * (layer.role == AFTER_GELU and read["shift"])
    return total + 2 * RECORD_BYTES * len(plan.list_units(config["model"]))


def count_packed(config: plan.Parameters, shapes: ModelShapes) -> int:
    """Packed checkpoint: quantized layers under their rules, all else in fp16."""
    rules = {name: find_weight_rule(config["weights"], name) for name in shapes.weights}
    linears = sum(math.prod(shape) for shape in shapes.weights.values())
    others = (shapes.parameters - linears) * FP16
    return others + sum(
        count_weight(shapes.weights[name], rule, config["bits_per_weight"]) for name, rule in rules.items()
    )


def count_exports(config: plan.Parameters, shapes: ModelShapes) -> dict[str, int]:
    """Upper bound for the exported dataset: an fp32 state per step, final latents, and uncompressed pictures."""
    rows, latent = config["trajectories"], math.prod(shapes.latent) * FP32
    return {
        "export_samples": rows * (config["steps"] + 1) * latent,
        "export_latents": rows * latent,
        "decode_latents": rows * math.prod(shapes.picture) * 3,
    }
