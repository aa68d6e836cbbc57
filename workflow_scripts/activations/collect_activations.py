"""Observe the inputs of all linear layers on one shard of the calibration points; write the observations and a seal."""

import argparse
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from taqmlx.mmdit.footprint import check_forward, choose_batch
from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.observe import Reduced, assemble_batch, find_nonfinite_row, observe_batch
from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.observations import Observations, add_batch, create_observation, pack_observations
from taqmlx.numerics.selection import choose_points
from taqmlx.numerics.sketch import POINTS_PER_STEP
from taqmlx.planning import plan
from taqmlx.planning.stage_demands import describe_few_points
from taqmlx.planning.stages import CollectActivations
from taqmlx.planning.step_choice import select_timesteps
from taqmlx.runtime.entry import Progress, add_folds, build_parser, find_shard_index, log, run
from taqmlx.store.calibration import POINT_ARRAYS, Calibration, open_calibration
from taqmlx.store.errors import UserError
from taqmlx.store.parameters import read_parameters
from taqmlx.store.seal import write_file_seal
from taqmlx.store.tensors import write_tensors

# Largest number of points per batch: larger batches gain nothing, and a shard has about this many points per step by
# default.
BATCH = 64


Conditions = Callable[[np.ndarray], list[np.ndarray]]


class Points(NamedTuple):
    """Calibration points ordered by step: their indices (n,), and their rows of the calibration set's arrays.

    sketched (n,) bool: points whose values go to the sketches.
    """

    indices: np.ndarray
    sketched: np.ndarray
    xs: np.ndarray
    ts: np.ndarray
    sigmas: np.ndarray
    steps: np.ndarray
    prompt_indices: np.ndarray


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(CollectActivations, arguments.params)
    calibration = open_calibration(arguments.calibration)
    calibration.verify()
    steps = calibration.read("steps")
    sigmas = find_sigmas(steps, calibration.read("sigmas"), parameters.statistics_steps)
    indices = choose_share(steps, list(sigmas), parameters, arguments.shard)
    points = read_points(calibration, indices, choose_sketched(steps, list(sigmas), parameters))
    model = find_model(parameters.model, parameters, folds=arguments.folds)
    transformer = model.load_transformer()
    cs_shape = calibration.specs["cs"].shape
    size = choose_batch(transformer, model.LATENT_SHAPE, cs_shape, BATCH)
    check_forward(transformer, model.LATENT_SHAPE, cs_shape[2], cs_shape[1] * size, "observing the layers")
    read_conditions = calibration.bind_conditions()
    observations = observe_points(transformer, parameters.model, points, read_conditions, list(sigmas), size)
    write_tensors(arguments.out, pack_observations(observations))
    own = {"shard": arguments.shard, "sigmas": [[step, sigma] for step, sigma in sigmas.items()]}
    inputs = {"calibration": calibration.seal["fingerprint"], "model": model.file_digests()}
    write_file_seal(arguments.out, parameters.encode() | own, inputs)
    log.info(f"activations {arguments.shard}: {len(observations)} inputs at {len(sigmas)} steps in {arguments.out}")


def find_sigmas(steps: np.ndarray, sigmas: np.ndarray, choice: str | int) -> dict[int, float]:
    """The steps to observe, ascending, with their sigma; steps and sigmas: those of all points, (n,)."""
    present, first = np.unique(steps, return_index=True)
    known = dict(zip(present.tolist(), sigmas[first].tolist(), strict=True))
    return {step: known[step] for step in select_timesteps(choice, present.tolist())}


def choose_share(steps: np.ndarray, chosen: list[int], parameters: CollectActivations, shard: str) -> np.ndarray:
    """Indices of the points to observe in shard `shard`, ordered by step.

    Raises UserError if there is no such shard, or there are fewer points than steps.
    """
    limit, shards = parameters.statistics_points, parameters.statistics_shards
    index = find_shard_index(shard, shards)
    if 0 < limit < len(chosen):
        raise UserError(describe_few_points("statistics_points", limit, len(chosen)))
    points = choose_points(steps, chosen, limit, parameters.seed)
    return points[index::shards]


def choose_sketched(steps: np.ndarray, chosen: list[int], parameters: CollectActivations) -> np.ndarray:
    """Indices of the points whose values go to the sketches: POINTS_PER_STEP of the observed points of each step.

    The number of shards does not change them.
    """
    observed = choose_points(steps, chosen, parameters.statistics_points, parameters.seed)
    few = choose_points(steps[observed], chosen, POINTS_PER_STEP * len(chosen), parameters.seed)
    sketched: np.ndarray = observed[few]
    return sketched


def read_points(calibration: Calibration, indices: np.ndarray, sketched: np.ndarray | None = None) -> Points:
    """The calibration points at `indices`; those of them at `sketched` go to the sketches, all if not given."""
    chosen = np.ones(len(indices), bool) if sketched is None else np.isin(indices, sketched)
    return Points(indices, chosen, **{name: calibration.read_rows(name, indices) for name in POINT_ARRAYS})


def list_batches(steps: np.ndarray, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` points with the same step, for points ordered by step."""
    starts = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
    for start, end in pairwise(starts):
        for first in range(start, end, size):
            yield slice(first, min(first + size, end))


def observe_points(
    transformer: Transformer, model_name: str, points: Points, read_conditions: Conditions, steps: list[int], size: int
) -> Observations:
    """The observations of every linear input at each of `steps`, `size` points at a time.

    read_conditions: as returned by `Calibration.bind_conditions`. Raises UserError for a value that is not finite.
    """
    layers = plan.list_layers(model_name)
    linear = bind_linears(transformer)
    observations: Observations = {}
    progress = Progress("activations", len(points.indices), "points")
    for batch in list_batches(points.steps, size):
        step = int(points.steps[batch.start])
        prompts, places = np.unique(points.prompt_indices[batch], return_inverse=True)
        rows = assemble_batch(points.xs[batch], places, float(points.ts[batch.start]), *read_conditions(prompts))
        for name, reduced in observe_batch(transformer, linear, layers, rows, points.sketched[batch]):
            reject_nonfinite(reduced, step, points.indices[batch])
            if name not in observations:
                observations[name] = [create_observation(len(reduced.channels.mean)) for _ in steps]
            place = steps.index(step)
            observations[name][place] = add_batch(observations[name][place], reduced.channels, reduced.sample)
        progress.advance(batch.stop - batch.start)
    return observations


def reject_nonfinite(reduced: Reduced, step: int, indices: np.ndarray) -> None:
    """Raise UserError, naming layer, step and point, if the layer input has a NaN or an infinity."""
    row = find_nonfinite_row(reduced)
    if row is not None:
        point = indices[row % len(indices)]
        raise UserError(
            f"{reduced.layer} has an input that is not finite at step {step}, calibration point {point};"
            " check the model's weights, and that point in calibration.zarr"
        )


if __name__ == "__main__":
    parser = add_folds(build_parser(__doc__, "params", "calibration", "out"))
    parser.add_argument("--shard", required=True, help="shard of the points, such as 00")
    run(main, parser)
