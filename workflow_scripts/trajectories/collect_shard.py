"""Record the denoising trajectories of one shard; resumes after an interruption.

Trajectory j starts from the noise of `seed + j` and follows prompt j mod P for all Euler steps; `batch_size` of them
advance together. The states are computed in fp32 and stored in fp16, the final latents are stored in fp32.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.footprint import check_forward
from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.sampling import bind_step
from taqmlx.models.catalogue import find_model
from taqmlx.models.protocol import Model
from taqmlx.numerics import schedule
from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard, ShardParameters
from taqmlx.runtime.entry import Progress, add_location, build_parser, log, run
from taqmlx.store.block_inputs import count_bytes
from taqmlx.store.checkpoint import Checkpoint
from taqmlx.store.conditioning import Conditioning, list_inputs, open_conditioning
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.parameters import read_parameters
from taqmlx.store.preflight import check_disk
from taqmlx.store.recorder import Recorder
from taqmlx.store.seal import holds_group, read_group_seal
from taqmlx.store.sealed_job import SealedJob

# advance(latents (n, h, w, c), step) -> the latents after that step
Advance = Callable[[mx.array, int], mx.array]
# begin(rows (n, 2) of trajectory and prompt index) -> the initial latents (n, h, w, c), and their `advance`
Begin = Callable[[np.ndarray], tuple[mx.array, Advance]]


def main(arguments: argparse.Namespace) -> None:
    stage = read_parameters(CollectShard, arguments.params)
    parameters = select_shard(stage, arguments.shard)
    conditioning = open_conditioning(arguments.conditioning, stage.encode())
    model = find_model(parameters.model, parameters)
    conditioning.check_weights(model.file_digests())
    inputs = list_inputs(conditioning, parameters.rows) | {"latent_shape": list(model.LATENT_SHAPE)}
    job = SealedJob(arguments.out, arguments.scratch, parameters.encode(), inputs)
    with job.hold():
        if not job.is_finished(holds_group):
            sigmas = model.compute_sigmas(parameters.steps)
            recorder = Recorder(job, schedule.list_levels(sigmas))
            checkpoint = take_up(recorder)
            check_disk(job.scratch, count_missing_bytes(recorder, checkpoint), "choose a results_dir elsewhere")
            record_shard(recorder, checkpoint, bind_beginning(model, conditioning, parameters, sigmas))
            recorder.publish()
            log.info(f"recorded {len(parameters.rows)} trajectories of {parameters.steps} steps: {job.out}")
        leave_receipt(arguments)


def leave_receipt(arguments: argparse.Namespace) -> None:
    """For a shard stored elsewhere, write its seal to the folder that Snakemake tracks."""
    if arguments.receipt and arguments.receipt != arguments.out:
        write_json(arguments.receipt / plan.RECEIPT, read_group_seal(arguments.out))


def select_shard(parameters: CollectShard, shard: str) -> ShardParameters:
    """The parameters of the requested shard. Raises UserError if there is no such shard."""
    shards = plan.list_shards(parameters)
    if shard not in shards:
        raise UserError(f"--shard {shard}: no such shard; choose one from {shards[0]} to {shards[-1]}")
    return plan.select_shard(parameters, shard)


def bind_beginning(model: Model, conditioning: Conditioning, parameters: ShardParameters, sigmas: mx.array) -> Begin:
    """Load the model once and return `begin` for the shard's trajectories. Raises UserError if memory is too small."""
    transformer = model.load_transformer()
    linear = bind_linears(transformer)
    batch_size = min(parameters.batch_size, len(parameters.rows))
    _, conditions, tokens, _ = conditioning.read_shapes()["cs_shape"]
    check_forward(
        transformer,
        model.LATENT_SHAPE,
        tokens,
        conditions * batch_size,
        f"recording {batch_size} trajectories in one batch",
        "lower batch_size",
    )

    def begin(rows: np.ndarray) -> tuple[mx.array, Advance]:
        used, places = np.unique(rows[:, 1], return_inverse=True)
        cs, cs_pooled = map(mx.array, conditioning.read(used.tolist()))
        seeds = (parameters.seed + rows[:, 0]).tolist()
        latents = schedule.start_latents(schedule.draw_noise(seeds, *model.LATENT_SHAPE), sigmas[0])
        cfg_scale = parameters.cfg_scale
        return latents, bind_step(transformer, lambda sigma: linear, cs, cs_pooled, mx.array(places), sigmas, cfg_scale)

    return begin


def take_up(recorder: Recorder) -> Checkpoint | None:
    """Resume or start the shard. Returns the checkpoint, or None at the start."""
    checkpoint = recorder.job.resume(recorder.restore, "starting this shard over")
    if checkpoint:
        log.info(f"resuming {recorder.job.scratch} at step {checkpoint.step} of trajectory {checkpoint.row + 1} and on")
    else:
        recorder.start()
    return checkpoint


def count_missing_bytes(recorder: Recorder, checkpoint: Checkpoint | None) -> int:
    """Uncompressed size in bytes of the trajectories that are not stored yet."""
    rows = recorder.layout.rows
    return count_bytes(recorder.specs) * (rows - (checkpoint.row if checkpoint else 0)) // rows


def record_shard(recorder: Recorder, checkpoint: Checkpoint | None, begin: Begin) -> None:
    """Record every trajectory missing from the checkpoint, `batch_size` at a time."""
    rows = np.array(recorder.parameters.rows)
    size, steps = recorder.parameters.batch_size, recorder.layout.steps
    row, step = (checkpoint.row, checkpoint.step) if checkpoint else (0, 0)
    done = row * steps + len(rows[row : row + size]) * step
    progress = Progress(f"shard {recorder.parameters.shard}", len(rows) * steps, "trajectory-steps", done)
    for first in range(row, len(rows), size):
        if step < steps:
            latents, advance = begin(rows[first : first + size])
            latents = mx.array(checkpoint.latents) if checkpoint and step else latents
            record_batch(recorder, first, step, latents, advance, progress)
        step = 0


def record_batch(
    recorder: Recorder, row: int, step: int, latents: mx.array, advance: Advance, progress: Progress
) -> None:
    """Record a batch of trajectories, starting at row `row`, from `step` with the state `latents` to the last step."""
    steps, block = recorder.layout.steps, recorder.layout.block
    for first in range(step, steps, block):
        end = min(first + block, steps)
        states = []
        for index in range(first, end):
            states.append(recorder.round_states(row, index, np.array(latents)))
            latents = advance(latents, index)
            mx.eval(latents)
            progress.advance(len(latents))
        recorder.store_chunk(row, first, np.stack(states, axis=1), np.array(latents))


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "conditioning", "scratch")
    add_location(parser, "out", help="location of the shard, a folder or a URL")
    parser.add_argument("--receipt", type=Path, help="folder for a copy of the seal, if not --out itself")
    parser.add_argument("--shard", required=True, help="shard name, such as 007")
    run(main, parser)
