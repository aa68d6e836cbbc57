"""Time, in seconds of one worker, and memory of the unit operations.

Standard library only, because planning uses it.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from taqmlx.numerics.footprint import (
    BATCH_BYTES,
    PARTS,
    PROCESS_BYTES,
    Learning,
    count_learning_bytes,
    estimate_distillation,
    estimate_distillation_by_block,
    estimate_forward,
    estimate_learning,
    estimate_search,
    limit_batch,
)
from taqmlx.planning import plan
from taqmlx.planning.bit_choices import CHANGE_BYTES, CHOICES, PROBE_POINTS, limit_group
from taqmlx.planning.block_plan import count_rows
from taqmlx.planning.folds import count_passes, list_folds, list_sites
from taqmlx.planning.sizes import Sizes
from taqmlx.planning.stage_groups import MEASURED_POINTS

COSTS = json.loads(Path(__file__).with_name("costs.json").read_text(encoding="utf-8"))
FP32 = 4
GRADIENT = 2  # forwards that a gradient takes
FILLED = 0.92  # share of the bytes of a group of the bit search that is used, as layers are not divided
MEASURED_MODELS = 3  # models that distillation runs on its held-out points: the teacher, the start and the result
GPTQ_SECONDS = 7e-6  # per weight, over all bit widths and group sizes that the search tries
PASSES = 4  # approximate forwards over the captured rows by RTN, GPTQ and the measurements together


class Rates(NamedTuple):
    """Seconds of one worker.

    step: one Euler step of one trajectory, both halves of guidance included; iteration: one learning iteration of a
    block; block: one block forward on the rows of one point; observe: one observed calibration point; encode: one
    prompt; start: startup of a worker. source: where and how they were measured.
    """

    step: float
    iteration: float
    block: float
    observe: float
    encode: float
    start: float
    source: str


def fit_tokens(measured: list[list[float]], tokens: int) -> float:
    """Seconds for `tokens` tokens, from one or two pairs [tokens, seconds]: a t + b t^2 through the pairs, b >= 0."""
    (first, *_), (last, *_) = measured[0], measured[-1]
    rates = [seconds / count for count, seconds in measured]
    slope = (rates[-1] - rates[0]) / (last - first) if last > first else 0.0
    return tokens * (rates[0] + slope * (tokens - first))


def choose_costs(model: str, on_gpu: bool) -> dict[str, Any]:
    """The model's costs: those of a GPU in place of the CPU's, if they were measured."""
    costs: dict[str, Any] = COSTS[model]
    return costs | (costs.get("gpu", {}) if on_gpu else {})


def estimate_rates(config: plan.Parameters, sizes: Sizes, step: float | None = None, *, on_gpu: bool = False) -> Rates:
    """Rates from the cost table at the model's sizes; scaled in proportion if `step`, in seconds, was measured here."""
    costs = choose_costs(config["model"], on_gpu)
    pair = fit_tokens(costs["block_pair_seconds"], sizes.tokens)
    block = pair * sizes.conditions / 2
    blocks = len(plan.list_block_names(config["model"]))
    speed = step / (block * blocks) if step else 1.0
    learning = costs["learn_seconds"]
    row = learning["per_row_over_pair"] * pair
    return Rates(
        step=block * blocks * speed,
        iteration=(learning["per_iteration"] + row * config["adaround_batch"]) * speed,
        block=block * speed,
        observe=costs["observe_over_step"] * block * blocks * speed,
        encode=sum(select_encoders(config, "encode_seconds")),
        start=costs["start_seconds"],
        source="measured here, learning in proportion" if step else f"{costs['basis']} on {costs['machine']}",
    )


def estimate_forward_memory(rows: int, sizes: Sizes) -> int:
    """Estimated bytes of a worker that runs the transformer on `rows` rows at a time."""
    return estimate_forward(rows, sizes.tokens, sizes.width, sizes.parameters * sizes.itemsize, sizes.itemsize)


def count_batch_rows(most: int, points: int, sizes: Sizes) -> int:
    """Rows per batch, one per condition, for `points` points in batches of at most `most` points."""
    return sizes.conditions * limit_batch(min(most, points), sizes.tokens, sizes.width, rows=sizes.conditions)


def select_encoders(config: plan.Parameters, key: str) -> list[float]:
    """Entries of the cost table under `key` for each text encoder in use."""
    reads_t5 = config["use_t5"] or "use_t5" not in plan.MODEL_KEYS[config["model"]]
    return [value for name, value in COSTS[config["model"]][key].items() if name != "t5" or reads_t5]


def count_conditioning(prompts: int, sizes: Sizes) -> int:
    """Bytes of the float32 encodings of `prompts` prompts, each with its negative if the model has guidance."""
    return prompts * sizes.conditions * (math.prod(sizes.context) + sizes.pooled) * FP32


def estimate_encoding_memory(config: plan.Parameters, encoding: int, itemsize: int) -> int:
    """Bytes of the encoding worker: the largest encoder, and one prompt's encodings."""
    used = select_encoders(config, "encoder_parameters")
    return PROCESS_BYTES + round(max(used) * itemsize + 4 * encoding)


def estimate_learning_memory(config: plan.Parameters, sizes: Sizes) -> int:
    """Bytes of a worker that quantizes one block: its weights and their learning state, the rows of an iteration, and
    its captured inputs with their targets."""
    rows, captured = count_rows(config), sizes.conditions * config["capture_points"]
    return estimate_learning(sizes.block_parameters, rows, captured, sizes.tokens, sizes.width)


def count_folding(config: plan.Parameters) -> float:
    """Passes over the rows of a block by the search of all folds, at most."""
    sites = list_sites(*plan.MODEL_BLOCKS[config["model"]])
    return sum(
        count_passes(kind, config["held_out"])
        for block in plan.list_block_names(config["model"])
        for _, kind in list_folds(sites, config["folds"], block)
    )


def estimate_folding_memory(config: plan.Parameters, sizes: Sizes) -> int:
    """Bytes of a worker that searches folds: the model, twice in parts, and the rows of a block with their targets."""
    rows: int = sizes.conditions * config["fold_points"]
    forward: int = estimate_forward_memory(count_batch_rows(32, config["fold_points"], sizes), sizes)
    return forward + 4 * FP32 * rows * sizes.tokens * sizes.width + 2 * FP32 * sizes.block_parameters


def count_searching(config: plan.Parameters, sizes: Sizes) -> float:
    """Number of points run forward by the bit search, with backward passes counted as equivalents.

    The layers are searched in groups. A group observes its inputs from the first block to its last. Its gradients go
    back from the last block to its first, and by its weights alone.
    """
    groups = max(1.0, sizes.parameters * CHOICES * CHANGE_BYTES / limit_group(sizes.parameters) / FILLED)
    share = (groups + 1) / 2 / groups  # of the blocks on one side of a group, itself included, in the mean of all
    back = share * (1 + is_recomputed(config, sizes, PROBE_POINTS)) + 1 / groups
    points: float = groups * (config["search_points"] * share + config["search_probes"] * PROBE_POINTS * (1 + back))
    return points


def is_recomputed(config: plan.Parameters, sizes: Sizes, points: int) -> bool:
    """True if a gradient on `points` points runs every block forward a second time, as the rows of all are too many."""
    rows = len(plan.list_block_names(config["model"])) * sizes.conditions * points
    return rows * count_learning_bytes(sizes.tokens, sizes.width) > BATCH_BYTES


def count_student(config: plan.Parameters, sizes: Sizes) -> float:
    """Number of points that the student of a distillation runs for its gradients, with these counted as forwards."""
    points: int = config["distil_iterations"] * config["distil_batch"] * config["distil_unroll"]
    return points * (1 + is_recomputed(config, sizes, config["distil_batch"]) + GRADIENT)


def count_distilling(config: plan.Parameters, sizes: Sizes) -> float:
    """Number of points run forward by distillation: by the student, by the teacher, and on held-out points by both."""
    held_out = config["trajectories"] * config["selected_steps"] * config["held_out"]
    taught: int = config["distil_iterations"] * config["distil_batch"] * config["distil_unroll"]
    measured: int = MEASURED_MODELS * min(MEASURED_POINTS, math.ceil(held_out))
    return count_student(config, sizes) + taught + measured


def estimate_searching_memory(sizes: Sizes, blocks: int) -> int:
    """Bytes of the bit search worker for a model of `blocks` blocks."""
    row = count_learning_bytes(sizes.tokens, sizes.width)
    rows = sizes.conditions * min(PROBE_POINTS, max(1, BATCH_BYTES // (sizes.conditions * row)))
    return estimate_search(describe_learning(sizes, blocks, rows, rows))


def estimate_distilling_memory(config: plan.Parameters, sizes: Sizes) -> int:
    """Bytes of the distillation worker: one graph if the gradients of all blocks fit in BATCH_BYTES, else by block."""
    blocks, batch = len(plan.list_block_names(config["model"])), config["distil_batch"]
    every = blocks * sizes.conditions * batch * count_learning_bytes(sizes.tokens, sizes.width)
    kind = "codes" if config["distil"] == "none" else config["distil"]
    if not is_recomputed(config, sizes, batch):
        return estimate_distillation(sizes.parameters, kind, every)
    part = sizes.conditions * -(-batch // PARTS)
    forward = max(part, count_batch_rows(batch, batch, sizes))
    return estimate_distillation_by_block(describe_learning(sizes, blocks, forward, part), kind)


def describe_learning(sizes: Sizes, blocks: int, forward: int, gradient: int) -> Learning:
    """Sizes of gradients by block, with the given rows in a forward or gradient."""
    own = sizes.parameters, sizes.block_parameters, sizes.itemsize
    return Learning(*own, blocks, sizes.tokens, sizes.width, forward, gradient)
