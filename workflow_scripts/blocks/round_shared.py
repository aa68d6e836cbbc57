"""Quantize the layers outside the blocks, embedders and final layer, into a block file named `shared`."""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from taqmlx.mmdit.calibration_points import CalibrationPoints, read_points, split_runs
from taqmlx.mmdit.footprint import check_forward, choose_batch
from taqmlx.mmdit.observe import Batch
from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.selection import choose_spread_points
from taqmlx.planning import block_plan, plan
from taqmlx.planning.layer_rules import UNQUANTIZED, LayerRules
from taqmlx.planning.layers import Layer
from taqmlx.planning.stages import RoundShared
from taqmlx.reconstruction.block_assembly import read_weights, split_points
from taqmlx.reconstruction.layer_hessians import accumulate_hessians, observe_layers
from taqmlx.reconstruction.layer_rounding import round_layer
from taqmlx.runtime.entry import add_folds, build_parser, log, run
from taqmlx.store.block_file import LayerWeight, write_block
from taqmlx.store.calibration import open_calibration
from taqmlx.store.errors import report_unusable_values
from taqmlx.store.mixed_bits import identify_bits, overlay_bits, read_mixed_bits
from taqmlx.store.parameters import read_parameters

BATCH_SIZE = 32  # largest number of points per forward


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(RoundShared, arguments.params)
    calibration = open_calibration(arguments.calibration)
    calibration.verify()
    mixed = read_mixed_bits(arguments.mixed) if arguments.mixed else None
    model = find_model(parameters.model, parameters, folds=arguments.folds)
    origin = {"model": model.file_digests(), "calibration": calibration.seal["fingerprint"]}
    origin |= identify_bits(parameters.bits_per_weight, mixed)
    transformer, points = model.load_transformer(), read_points(calibration)
    shape = calibration.specs["cs"].shape
    batch_size = choose_batch(transformer, model.LATENT_SHAPE, shape, BATCH_SIZE)
    check_forward(transformer, model.LATENT_SHAPE, shape[2], shape[1] * batch_size, "rounding layers")
    rules = overlay_bits(block_plan.list_rules(parameters.model, parameters), mixed)
    with report_unusable_values(plan.SHARED):
        rounded = round_layers(transformer, points, rules, parameters, batch_size)
    record = block_plan.select_block(parameters.encode(), plan.SHARED)
    write_block(arguments.out, rounded, {}, np.unique(points.sigmas)[::-1], record, origin)
    log.info(f"{len(rounded)} layers outside the blocks: {arguments.out}")


def round_layers(
    transformer: Transformer, points: CalibrationPoints, rules: LayerRules, parameters: RoundShared, batch_size: int
) -> dict[str, LayerWeight]:
    """Quantized layers outside the blocks, run `batch_size` points at a time. Raises ValueError as `round_layer`."""
    layers = [layer for layer in plan.list_layers(parameters.model) if not layer.block]
    layers = [layer for layer in layers if rules[layer.name]["weight"]["bits"] != UNQUANTIZED]
    if not layers:
        return {}
    steps = np.unique(points.sigmas, return_inverse=True)[1]
    chosen = choose_spread_points(steps, points.prompts, parameters.search_points, parameters.seed)
    training, held_out = split_points(chosen, points.prompts[chosen], parameters.held_out, parameters.seed)
    weights, _ = read_weights(transformer, layers)
    hessians = accumulate_hessians(transformer, layers, take_batches(points, chosen[training], batch_size))
    read = collect_inputs(transformer, layers, take_batches(points, chosen[held_out], batch_size))
    return {
        layer.name: round_layer(
            weights[layer.name],
            rules[layer.name]["weight"],
            hessians[layer.input],
            read[layer.input],
            parameters.engine,
        )
        for layer in layers
    }


def take_batches(points: CalibrationPoints, indices: np.ndarray, batch_size: int) -> Iterator[Batch]:
    """The points at `indices` in batches of at most `batch_size`."""
    return (points.take(run) for run in split_runs(indices, batch_size))


def collect_inputs(transformer: Transformer, layers: list[Layer], batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """Inputs of `layers` on `batches`, (tokens, in), by input name."""
    parts: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        for key, x in observe_layers(transformer, layers, batch).items():
            parts.setdefault(key, []).append(np.array(x).reshape(-1, x.shape[-1]))
    return {key: np.concatenate(own) for key, own in parts.items()}


if __name__ == "__main__":
    parser = add_folds(build_parser(__doc__, "params", "calibration", "out"))
    parser.add_argument("--mixed", type=Path, help="mixed_bits.json with the layers' bits, if bits_per_weight is set")
    run(main, parser)
