"""How long a machine works on one thing, in seconds of one worker, and how much memory that takes."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from workflow_scripts import plan
from workflow_scripts.budgeting.shapes import ModelShapes

COSTS = json.loads(Path(__file__).with_name("costs.json").read_text(encoding="utf-8"))
FP32 = 4
PROCESS_BYTES = 75_000_000  # of a worker that has loaded its packages and nothing else
# Tensors as wide as the model that are held for a token, about, as the embedded model's workers show.
WIDTHS_ALIVE, WIDTHS_OBSERVED = 24, 80
SCORES_ALIVE = 2  # attention matrices of a row, one for each head
PASSES = 4  # forwards over the captured rows that rounding to nearest, GPTQ and measuring take together, about


class Rates(NamedTuple):
    """Seconds of one worker: step, one Euler step of one trajectory with both halves of guidance; iteration, one of a
    block's learning; block, a block's forward on one pair of rows; observe, one calibration point observed; encode, a
    prompt; start, until a worker works. source: where they were measured, and how."""

    step: float
    iteration: float
    block: float
    observe: float
    encode: float
    start: float
    source: str


def fit_tokens(measured: list[list[float]], tokens: int) -> float:
    """Seconds for `tokens` tokens, from one or two pairs [tokens, seconds]: a t + b t^2 through the pairs, b >= 0."""
    powers = np.array([[t, t * t][: len(measured)] for t, _ in measured], float)
    factors = np.linalg.solve(powers, [seconds for _, seconds in measured])
    return float(sum(factor * tokens ** (power + 1) for power, factor in enumerate(factors)))


def estimate_rates(config: plan.Parameters, shapes: ModelShapes, step: float | None = None) -> Rates:
    """The rates of the table at the model's shapes; where `step`, seconds, was measured here, all in proportion."""
    costs = COSTS[config["model"]]
    block = fit_tokens(costs["block_pair_seconds"], shapes.tokens)
    blocks = len(plan.list_blocks(config["model"]))
    speed = step / (block * blocks) if step else 1.0
    learning = costs["learn_seconds"]
    row = learning["per_row_over_pair"] * block
    return Rates(
        step=block * blocks * speed,
        iteration=(learning["per_iteration"] + row * config["adaround_batch"]) * speed,
        block=block * speed,
        observe=costs["observe_over_step"] * block * blocks * speed,
        encode=sum(select_encoders(config, "encode_seconds")),
        start=costs["start_seconds"],
        source="measured here, learning in proportion" if step else f"{costs['basis']} on {costs['machine']}",
    )


def estimate_forward_memory(rows: int, shapes: ModelShapes, widths: int) -> int:
    """Bytes of a worker that runs the transformer on `rows` rows at a time with `widths` tensors alive: an estimate."""
    per_row = widths * shapes.tokens * shapes.image[1] + SCORES_ALIVE * shapes.heads * shapes.tokens**2
    return PROCESS_BYTES + shapes.itemsize * (shapes.parameters + rows * per_row)


def select_encoders(config: plan.Parameters, key: str) -> list[float]:
    """What the table says under `key` of each text encoder that the configuration uses."""
    return [value for name, value in COSTS[config["model"]][key].items() if name != "t5" or config["use_t5"]]


def estimate_encoding_memory(config: plan.Parameters, encodings: int, itemsize: int) -> int:
    """Bytes of the worker that encodes: the largest encoder, or the encodings of all prompts three times."""
    used = select_encoders(config, "encoder_parameters")
    return PROCESS_BYTES + max(max(used) * itemsize, 3 * encodings)


def estimate_learning_memory(config: plan.Parameters, shapes: ModelShapes) -> int:
    """Bytes of a worker that quantizes one block: its weights and their learning, the rows of an iteration, and what
    was captured for it with its targets."""
    learning = COSTS[config["model"]]["learn_bytes"]
    block = max(count_block_weights(shapes).values())
    width, rows = shapes.image[1], 2 * config["capture_points"]
    captured = 2 * rows * shapes.tokens * width * 2  # inputs and targets, float16
    alive = config["adaround_batch"] * shapes.tokens * width * learning["per_token_width"]
    return PROCESS_BYTES + block * learning["per_parameter"] + captured + alive


def count_block_weights(shapes: ModelShapes) -> dict[str, int]:
    """The quantizable weights of each block."""
    counts: dict[str, int] = {}
    for layer in (layer for layer in shapes.layers if layer.block and layer.role != "adaLN"):
        out, columns = shapes.weights[layer.name]
        counts[layer.block] = counts.get(layer.block, 0) + out * columns
    return counts
