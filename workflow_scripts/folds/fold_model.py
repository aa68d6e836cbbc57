"""Search the folds of the model: exact transforms of layer inputs, made in its weights before they are quantized."""

import argparse
from collections.abc import Iterator

import numpy as np

from taqmlx.mmdit.blocks import build_blocks
from taqmlx.mmdit.calibration_points import CalibrationPoints, read_points, split_runs
from taqmlx.mmdit.capture import States, capture_states
from taqmlx.mmdit.footprint import check_forward, choose_batch
from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.quality import to_decibels
from taqmlx.numerics.selection import choose_spread_points
from taqmlx.planning import block_plan, plan
from taqmlx.planning.folds import list_folds, list_sites
from taqmlx.planning.stages import FoldModel
from taqmlx.reconstruction.block_assembly import assemble_problem, list_own_linears, read_weights, split_points
from taqmlx.reconstruction.folding import search_fold
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.calibration import open_calibration
from taqmlx.store.errors import report_unusable_values
from taqmlx.store.folds_file import Fold, write_folds
from taqmlx.store.parameters import read_parameters

TOGETHER = 32  # largest number of points per forward


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(FoldModel, arguments.params)
    calibration = open_calibration(arguments.calibration)
    calibration.verify()
    model = find_model(parameters.model, parameters)
    transformer, points = model.load_transformer(), read_points(calibration)
    shape = calibration.specs["cs"].shape
    together = choose_batch(transformer, model.LATENT_SHAPE, shape, TOGETHER)
    check_forward(transformer, model.LATENT_SHAPE, shape[2], shape[1] * together, "searching folds")
    folds = list(fold_blocks(parameters, transformer, points, together, model.LATENT_SHAPE))
    inputs = {"model": model.file_digests(), "calibration": calibration.seal["fingerprint"]}
    write_folds(arguments.out, folds, parameters.encode(), inputs)
    log.info(f"{len(folds)} folds kept: {arguments.out}")


def fold_blocks(
    parameters: FoldModel,
    transformer: Transformer,
    points: CalibrationPoints,
    together: int,
    latent_shape: tuple[int, ...],
) -> Iterator[Fold]:
    """The folds that are kept, block by block, on states that are captured `together` points at a time."""
    steps = np.unique(points.sigmas, return_inverse=True)[1]
    chosen = choose_spread_points(steps, points.prompts, parameters.fold_points, parameters.seed)
    runs = [np.asarray(run) for run in split_runs(chosen, together)]
    rows = np.concatenate([np.tile(run, plan.count_conditions(parameters.model)) for run in runs])
    split = split_points(rows, points.prompts[rows], parameters.held_out, parameters.seed)
    linear = bind_linears(transformer)  # of the original weights
    captured = [capture_states(transformer, linear, points.take(run)) for run in runs]
    modulation = np.concatenate([own for own, _ in captured])
    states = [iterator for _, iterator in captured]
    rules = block_plan.list_rules(parameters.model, parameters)
    sites = list_sites(*plan.MODEL_BLOCKS[parameters.model])
    before = take_states(states)
    for block in build_blocks(transformer, latent_shape):
        after = take_states(states)
        own, _ = read_weights(transformer, list_own_linears(transformer, block.name))
        streams, sigmas = (before[0], require(before[1])), points.sigmas[rows]
        problem = assemble_problem(transformer, block, rules, own, streams, after, modulation, sigmas, split)
        for site, kind in list_folds(sites, parameters.folds, block.name):
            with report_unusable_values(site.name):
                fold, problem = search_fold(transformer, problem, modulation, site, kind, rules, parameters.seed)
            log.info(f"{site.name} {kind}: {describe(fold)}")
            if fold:
                yield fold
        before = after


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
    run(main, build_parser(__doc__, "params", "calibration", "out"))
