"""Capture the inputs of all blocks, or of consecutive ones, on one shard of the capture points.

Resumes after an interruption.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from taqmlx.mmdit.capture import assemble_rows, capture_states
from taqmlx.mmdit.footprint import check_forward
from taqmlx.mmdit.forward import bind_linears, measure_shapes
from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.selection import choose_spread_points
from taqmlx.planning import plan
from taqmlx.planning.capture_groups import find_span
from taqmlx.planning.stage_demands import describe_few_points, describe_many_shards
from taqmlx.planning.stages import CaptureBlocks, CaptureParameters
from taqmlx.runtime.entry import Progress, build_parser, find_shard_index, log, run
from taqmlx.store.block_inputs import choose_batch, count_bytes
from taqmlx.store.block_recorder import BlockRecorder
from taqmlx.store.calibration import POINT_ARRAYS, Calibration, open_calibration
from taqmlx.store.errors import UserError
from taqmlx.store.parameters import read_parameters
from taqmlx.store.preflight import check_disk
from taqmlx.store.seal import holds_group
from taqmlx.store.sealed_job import SealedJob


def main(arguments: argparse.Namespace) -> None:
    calibration = open_calibration(arguments.calibration)
    calibration.verify()
    stage = read_parameters(CaptureBlocks, arguments.params)
    parameters = select_shard(stage, arguments.shard, arguments.blocks, calibration)
    model = find_model(parameters.model, parameters)
    transformer, tokens = model.load_transformer(), calibration.specs["cs"].shape[2]
    inputs = {"calibration": calibration.seal["fingerprint"], "model": model.file_digests()}
    shapes = measure_shapes(transformer.config, model.LATENT_SHAPE, tokens)
    job = SealedJob(arguments.out, arguments.scratch, parameters.encode(), {**inputs, **shapes})
    with job.hold():
        if job.is_finished(holds_group):
            return
        conditions = plan.count_conditions(parameters.model)
        rows = conditions * choose_batch(conditions, shapes["image_shape"], shapes["text_shape"])
        check_forward(transformer, model.LATENT_SHAPE, tokens, rows, "capturing block inputs")
        recorder = BlockRecorder(job)
        begun = take_up(recorder)
        announce_size(recorder)
        by_point = {name: calibration.read_rows(name, np.array(parameters.points)) for name in POINT_ARRAYS}
        if not begun:
            recorder.start({name: by_point[name] for name in ("sigmas", "steps", "prompt_indices")})
        capture_points(recorder, transformer, calibration, by_point)
        recorder.publish()
    log.info(f"captured the block inputs of {len(parameters.points)} points: {job.out}")


def select_shard(
    parameters: CaptureBlocks, shard: str, blocks: Sequence[str] | None, calibration: Calibration
) -> CaptureParameters:
    """The parameters of one shard for consecutive `blocks`, None for all.

    Raises UserError if there is no such shard, the blocks are others, or there are fewer points than steps or shards.
    """
    try:
        find_span(parameters.model, blocks)
    except ValueError as error:
        raise UserError(f"--blocks: {error}") from None
    shards, limit = parameters.capture_shards, parameters.capture_points
    index = find_shard_index(shard, shards)
    steps, prompts = (calibration.read(name) for name in ("steps", "prompt_indices"))
    count = len(np.unique(steps))
    if limit < count:
        raise UserError(describe_few_points("capture_points", limit, count))
    points = choose_spread_points(steps, prompts, limit, parameters.seed)
    if shards > len(points):
        raise UserError(describe_many_shards(shards, len(points)))
    return CaptureParameters(**vars(parameters), shard=shard, points=points[index::shards].tolist(), blocks=blocks)


def take_up(recorder: BlockRecorder) -> bool:
    """Resume the shard, or make room for it. Returns True if work was resumed."""
    if recorder.job.resume(recorder.restore, "starting this shard over"):
        log.info(f"resuming {recorder.job.scratch} at batch {recorder.done + 1} of {len(recorder.batches)}")
        return True
    recorder.job.clear()
    return False


def announce_size(recorder: BlockRecorder) -> None:
    """Log the size of the shard. Raises UserError if the disk has no room for the remaining batches."""
    points, blocks = len(recorder.parameters.points), len(recorder.span)
    log.info(f"{points} points, {blocks} blocks: {count_bytes(recorder.specs) / 1e6:.1f} MB in {recorder.job.out}")
    check_disk(recorder.job.scratch.parent, recorder.count_missing_bytes(), "lower capture_points")


def capture_points(
    recorder: BlockRecorder, transformer: Transformer, calibration: Calibration, by_point: dict[str, np.ndarray]
) -> None:
    """Capture every batch that is not stored yet; by_point: the calibration set's arrays at the shard's points (n,)."""
    linear = bind_linears(transformer)
    label = f"capture {recorder.parameters.shard}"
    progress = Progress(label, len(by_point["xs"]), "points", recorder.stored_points)
    read_conditions = calibration.bind_conditions()
    for batch in recorder.batches[recorder.done :]:
        conditions = read_conditions(by_point["prompt_indices"][batch])
        rows = assemble_rows(by_point["xs"][batch], by_point["ts"][batch], *conditions)
        recorder.store_batch(*capture_states(transformer, linear, rows, recorder.span))
        progress.advance(batch.stop - batch.start)


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "calibration", "scratch", "out")
    parser.add_argument("--shard", required=True, help="shard of the points, such as 00")
    parser.add_argument("--blocks", nargs="+", help="names of consecutive blocks, such as mm_00 mm_01; all by default")
    run(main, parser)
