"""Import a dataset in the original layout into the trajectory store: samples, manifest and, if present, final latents.

The configuration must describe the dataset (`write_import_config` writes it from the manifest), and its prompts must be
encoded. The dataset is checked first: if any file is missing, damaged or wrong, each fault is listed and nothing is
imported. States are stored in fp16, like recorded ones; final latents in fp32.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from taqmlx.models.catalogue import find_model
from taqmlx.models.protocol import Model
from taqmlx.numerics import schedule
from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard, ShardParameters
from taqmlx.runtime.entry import Progress, build_parser, log, run
from taqmlx.store.conditioning import Conditioning, list_inputs, open_conditioning
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file
from taqmlx.store.manifest import read_manifest
from taqmlx.store.original_layout import name_sample, read_sample
from taqmlx.store.parameters import read_parameters
from taqmlx.store.recorder import Recorder
from taqmlx.store.sample_folder import Expected, count_faults, find_folder_faults, find_manifest_faults
from taqmlx.store.seal import holds_group
from taqmlx.store.sealed_job import SealedJob


def main(arguments: argparse.Namespace) -> None:
    stage = read_parameters(CollectShard, arguments.params)
    conditioning = open_conditioning(arguments.conditioning, stage.encode())
    model = find_model(stage.model, stage)
    conditioning.check_weights(model.file_digests())
    levels = schedule.list_levels(model.compute_sigmas(stage.steps))
    expected = Expected(range(stage.trajectories), levels["sigmas"], model.LATENT_SHAPE)
    check_folder(arguments.folder, stage, expected, model)
    with ExitStack() as stack:
        recorders: list[Recorder] = []
        for shard in plan.list_shards(stage):
            parameters = plan.select_shard(stage, shard)
            inputs = describe_inputs(arguments.folder, conditioning, parameters, model)
            scratch = arguments.trajectories.parent / "scratch" / shard
            job = SealedJob(arguments.trajectories / shard, scratch, parameters.encode(), inputs)
            stack.enter_context(job.hold())
            if not holds_group(job.out, job.parameters, inputs):
                recorders.append(Recorder(job, levels))
        import_shards(arguments.folder, recorders)
    log.info(f"imported {stage.trajectories} trajectories, {len(recorders)} shards now: {arguments.trajectories}")


def check_folder(folder: Path, parameters: CollectShard, expected: Expected, model: Model) -> None:
    """Log every fault of the dataset. Raises UserError, with their counts, if there is any."""
    faults = list(find_manifest_faults(read_manifest(folder / "manifest.json"), parameters))
    advice = "write_import_config writes the configuration of this folder"
    if not faults:
        faults = list(find_folder_faults(folder, expected, model.process_out))
        advice = "restore these files"
    for fault in faults:
        log.error(f"{fault.kind}: {fault.line}")
    if faults:
        raise UserError(f"{folder}: {count_faults(faults)}, listed above; nothing was imported; {advice}")


def describe_inputs(
    folder: Path, conditioning: Conditioning, parameters: ShardParameters, model: Model
) -> dict[str, Any]:
    """Inputs of an imported shard; the key `imported` distinguishes it from a recorded one."""
    inputs = list_inputs(conditioning, parameters.rows) | {"latent_shape": list(model.LATENT_SHAPE)}
    return inputs | {"imported": {"manifest": hash_file(folder / "manifest.json")}}


def import_shards(folder: Path, recorders: list[Recorder]) -> None:
    """Write every shard to its scratch folder; when all are written, seal them and rename them into place."""
    total = sum(recorder.layout.rows for recorder in recorders)
    progress = Progress("import", total, "trajectories")
    for recorder in recorders:
        recorder.start()
        for row, (image, _) in enumerate(recorder.parameters.rows):
            import_trajectory(recorder, row, folder / "samples", image)
            progress.advance()
    for recorder in recorders:
        recorder.publish()


def import_trajectory(recorder: Recorder, row: int, samples: Path, image: int) -> None:
    """Store the samples of one image as a row of a shard."""
    steps, block = recorder.layout.steps, recorder.layout.block
    for first in range(0, steps, block):
        end = min(first + block, steps)
        x = np.stack([read_sample(name_sample(samples, image, step)).x for step in range(first, end + 1)])
        states = [recorder.round_states(row, first + i, x[i : i + 1])[0] for i in range(end - first)]
        recorder.store_chunk(row, first, np.stack(states)[None], x[-1:])


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "conditioning", "trajectories")
    parser.add_argument("folder", type=Path, help="folder with samples/ and manifest.json")
    run(main, parser)
