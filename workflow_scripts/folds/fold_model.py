"""Search the folds of the model: exact transforms of layer inputs, made in its weights before they are quantized.

Resumes an interrupted run with the same parameters and inputs after its last finished block.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from taqmlx.mmdit.blocks import Block, build_blocks
from taqmlx.mmdit.calibration_points import CalibrationPoints, read_points, split_runs
from taqmlx.mmdit.capture import States, capture_states
from taqmlx.mmdit.footprint import check_forward, choose_batch
from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.catalogue import find_model
from taqmlx.models.protocol import Model
from taqmlx.numerics.quality import to_decibels
from taqmlx.numerics.selection import choose_spread_points
from taqmlx.planning import block_plan, plan
from taqmlx.planning.folds import list_folds, list_sites
from taqmlx.planning.stages import FoldModel
from taqmlx.reconstruction.block_assembly import assemble_problem, list_own_linears, read_weights, split_points
from taqmlx.reconstruction.folding import search_fold
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.calibration import Calibration, open_calibration
from taqmlx.store.errors import report_unusable_values
from taqmlx.store.folds_file import Fold, holds_folds, pack_folds, unpack_folds, write_folds
from taqmlx.store.parameters import read_parameters
from taqmlx.store.sealed_job import SealedJob

TOGETHER = 32  # largest number of points per forward


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(FoldModel, arguments.params)
    calibration = open_calibration(arguments.calibration)
    model = find_model(parameters.model, parameters)
    inputs = {"model": model.file_digests(), "calibration": calibration.seal["fingerprint"]}
    job = SealedJob(arguments.out, arguments.scratch, parameters.encode(), inputs)
    with job.hold():
        if not job.is_finished(holds_folds, replace=True):
            calibration.verify()
            folds = fold_blocks(job, parameters, model, calibration)
            write_folds(job.file, folds, job.parameters, job.inputs)
            log.info(f"{len(folds)} folds kept: {job.out}")


def fold_blocks(job: SealedJob, parameters: FoldModel, model: Model, calibration: Calibration) -> list[Fold]:
    """The folds that are kept, block by block, with a checkpoint after each; those of the job's checkpoint come first.

    Raises UserError if the machine's memory is too small.
    """
    transformer, points = model.load_transformer(), read_points(calibration)
    shape = calibration.specs["cs"].shape
    together = choose_batch(transformer, model.LATENT_SHAPE, shape, TOGETHER)
    check_forward(transformer, model.LATENT_SHAPE, shape[2], shape[1] * together, "searching folds")
    runs = choose_runs(parameters, points, together)
    rows = np.concatenate([np.tile(run, plan.count_conditions(parameters.model)) for run in runs])
    split = split_points(rows, points.prompts[rows], parameters.held_out, parameters.seed)
    linear = bind_linears(transformer)  # of the original weights
    captured = [capture_states(transformer, linear, points.take(run)) for run in runs]
    modulation, states = np.concatenate([own for own, _ in captured]), [iterator for _, iterator in captured]
    done, folds = resume(job)
    before = take_states(states)
    for number, block in enumerate(build_blocks(transformer, model.LATENT_SHAPE), start=1):
        after = take_states(states)
        if number > done:
            streams, sigmas = (before[0], require(before[1])), points.sigmas[rows]
            folds += fold_block(parameters, transformer, block, streams, after, modulation, sigmas, split)
            save(job, number, folds)
        before = after
    return folds


def choose_runs(parameters: FoldModel, points: CalibrationPoints, together: int) -> list[np.ndarray]:
    """Indices of the points of the search, spread over steps and prompts, in runs of at most `together`."""
    steps = np.unique(points.sigmas, return_inverse=True)[1]
    chosen = choose_spread_points(steps, points.prompts, parameters.fold_points, parameters.seed)
    return [np.asarray(run) for run in split_runs(chosen, together)]


def fold_block(
    parameters: FoldModel,
    transformer: Transformer,
    block: Block,
    before: tuple[np.ndarray, np.ndarray],
    after: States,
    modulation: np.ndarray,
    sigmas: np.ndarray,
    split: tuple[np.ndarray, np.ndarray],
) -> Iterator[Fold]:
    """The folds of a block that are kept, which `transformer` then has, on the states `before` and `after` it."""
    own, _ = read_weights(transformer, list_own_linears(transformer, block.name))
    rules = block_plan.list_rules(parameters.model, parameters)
    problem = assemble_problem(transformer, block, rules, own, before, after, modulation, sigmas, split)
    for site, kind in list_folds(list_sites(*plan.MODEL_BLOCKS[parameters.model]), parameters.folds, block.name):
        with report_unusable_values(site.name):
            fold, problem = search_fold(transformer, problem, modulation, site, kind, rules, parameters.seed)
        log.info(f"{site.name} {kind}: {describe(fold)}")
        if fold:
            yield fold


def save(job: SealedJob, blocks: int, folds: list[Fold]) -> None:
    """Replace the job's checkpoint by that of the first `blocks` blocks with their folds."""
    arrays, named = pack_folds(folds)
    job.save_learning({"blocks": blocks, "folds": named}, arrays)


def resume(job: SealedJob) -> tuple[int, list[Fold]]:
    """Number of blocks that the job's checkpoint has, and their folds.

    The search of a block reads only its own weights and full-precision states, so folds of others need not be made.
    """
    saved = job.resume_learning("it is ignored, and the search starts over")
    if saved is None:
        return 0, []
    numbers, arrays = saved
    log.info(f"resuming after {numbers['blocks']} blocks")
    return numbers["blocks"], unpack_folds(arrays, numbers["folds"])


def take_states(states: list[Iterator[States]]) -> States:
    """The next states of all runs, float16."""
    images, texts = zip(*map(next, states), strict=True)
    text = [part for part in texts if part is not None]
    return np.concatenate(images).astype(np.float16), np.concatenate(text).astype(np.float16) if text else None


def require(text: np.ndarray | None) -> np.ndarray:
    """`text`, which only the last block does not have as an output."""
    if text is None:
        raise ValueError("the text ends before the last block")
    return text


def describe(fold: Fold | None) -> str:
    """Errors of a fold in words."""
    if fold is None:
        return "left out"
    before, after = (-to_decibels(error, 1) for error in fold.errors)
    return f"{before:.2f} dB without, {after:.2f} dB with, held out"


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "calibration", "scratch", "out"))
