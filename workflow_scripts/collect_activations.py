"""Observe what every linear layer reads, on one part of the calibration points; write it and its seal."""

import argparse
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from workflow_scripts import plan
from workflow_scripts.entry import Progress, build_parser, log, run
from workflow_scripts.mmdit.forward import bind_linears
from workflow_scripts.mmdit.layers import list_linears
from workflow_scripts.mmdit.observe import Reduced, assemble_batch, find_broken_row, observe_batch
from workflow_scripts.models.catalogue import find_model
from workflow_scripts.numerics.observations import Observations, add_batch, create_observation, pack_observations
from workflow_scripts.numerics.selection import choose_points
from workflow_scripts.numerics.step_choice import choose_steps
from workflow_scripts.store.calibration import POINT_ARRAYS, PROMPT_ARRAYS, Calibration, open_calibration
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import hash_file, read_json, write_json
from workflow_scripts.store.seal import make_seal
from workflow_scripts.store.tensors import write_tensors

# Points that run together; more gains nothing, and a step's share of a part is about this at the default scale.
BATCH = 64


class Points(NamedTuple):
    """Calibration points ordered by step: their indices (n,), the set's arrays at them, and all conditions."""

    indices: np.ndarray
    xs: np.ndarray
    ts: np.ndarray
    sigmas: np.ndarray
    steps: np.ndarray
    prompt_indices: np.ndarray
    cs: np.ndarray
    cs_pooled: np.ndarray


def main(arguments: argparse.Namespace) -> None:
    parameters = read_json(arguments.params)
    calibration = open_calibration(arguments.calibration)
    calibration.verify()
    steps = calibration.read("steps")
    sigmas = find_sigmas(steps, calibration.read("sigmas"), parameters["statistics_steps"])
    points = read_points(calibration, choose_share(steps, list(sigmas), parameters, arguments.shard))
    model = find_model(parameters["model"], parameters)
    observations = observe_points(model.load_transformer(), parameters["model"], points, list(sigmas))
    write_tensors(arguments.out, pack_observations(observations))
    seal = make_seal(
        parameters | {"shard": arguments.shard, "sigmas": [[step, sigma] for step, sigma in sigmas.items()]},
        {"calibration": calibration.seal["fingerprint"], "model": model.file_digests()},
        {arguments.out.name: hash_file(arguments.out)},
    )
    write_json(arguments.out.with_suffix(".json"), seal)
    log.info(f"activations {arguments.shard}: {len(observations)} inputs at {len(sigmas)} steps in {arguments.out}")


def find_sigmas(steps: np.ndarray, sigmas: np.ndarray, choice: str | int) -> dict[int, float]:
    """The steps to observe, ascending, with their sigma, from those of every point (n,)."""
    present, first = np.unique(steps, return_index=True)
    known = dict(zip(present.tolist(), sigmas[first].tolist(), strict=True))
    return {step: known[step] for step in choose_steps(choice, present.tolist())}


def choose_share(steps: np.ndarray, chosen: list[int], parameters: plan.Parameters, shard: str) -> np.ndarray:
    """Part `shard` of the points to observe: their indices, ordered by step.

    Raises UserError if there is no such part, or not a point for every step.
    """
    limit = parameters["statistics_points"]
    if shard not in plan.list_parts(parameters["statistics_shards"]):
        raise UserError(f"shard {shard}: statistics_shards is {parameters['statistics_shards']}; count from 00")
    if 0 < limit < len(chosen):
        raise UserError(
            f"statistics_points: {limit} is too few for {len(chosen)} steps; set it to {len(chosen)} or more"
        )
    points = choose_points(steps, chosen, limit, parameters["seed"])
    return points[int(shard) :: parameters["statistics_shards"]]


def read_points(calibration: Calibration, indices: np.ndarray) -> Points:
    """The points at `indices`, and all conditions."""
    by_point = {name: calibration.read_rows(name, indices) for name in POINT_ARRAYS}
    return Points(indices, **by_point, **{name: calibration.read(name) for name in PROMPT_ARRAYS})


def list_batches(steps: np.ndarray) -> Iterator[slice]:
    """Runs of at most BATCH points of one step, among points ordered by step."""
    starts = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
    for start, end in pairwise(starts):
        for first in range(start, end, BATCH):
            yield slice(first, min(first + BATCH, end))


def observe_points(transformer, model_name: str, points: Points, steps: list[int]) -> Observations:
    """The observations of every linear input at each of `steps`. Raises UserError for a value that is not finite."""
    layers = list_linears(*plan.MODEL_BLOCKS[model_name])
    linear = bind_linears(transformer)
    observations: Observations = {}
    progress = Progress("activations", len(points.indices), "points")
    for batch in list_batches(points.steps):
        step = int(points.steps[batch.start])
        rows = assemble_batch(
            points.xs[batch], points.prompt_indices[batch], float(points.ts[batch.start]), points.cs, points.cs_pooled
        )
        for name, reduced in observe_batch(transformer, linear, layers, rows):
            refuse_broken(reduced, step, points.indices[batch])
            if name not in observations:
                observations[name] = [create_observation(len(reduced.channels.mean)) for _ in steps]
            place = steps.index(step)
            observations[name][place] = add_batch(observations[name][place], reduced.channels, reduced.sample)
        progress.advance(batch.stop - batch.start)
    return observations


def refuse_broken(reduced: Reduced, step: int, indices: np.ndarray) -> None:
    """Raise UserError, naming layer, step and point, if the layer read a NaN or an infinity."""
    row = find_broken_row(reduced)
    if row is not None:
        point = indices[row % len(indices)]
        raise UserError(
            f"{reduced.layer} reads a value that is not finite at step {step}, calibration point {point};"
            " check the model's weights, and that point in calibration.zarr"
        )


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "calibration", "out")
    parser.add_argument("--shard", required=True, help="the part of the points, such as 00")
    run(main, parser)
