"""Record every shard of a run with a free denoiser through the real recorder, seals and store.

python -m tools.benchmarks.fake_denoiser RESULTS, where `params/collect_shard.json` and the prompt encodings exist.
Trajectories start from the noise of their seeds, and each step moves them towards zero.
"""

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

from taqmlx.models.catalogue import find_model
from taqmlx.numerics import schedule
from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard
from taqmlx.store.conditioning import list_inputs, open_conditioning
from taqmlx.store.parameters import read_parameters
from taqmlx.store.recorder import Recorder
from taqmlx.store.sealed_job import SealedJob
from workflow_scripts.trajectories.collect_shard import Advance, record_shard


def record_shards(results: Path) -> None:
    """Make every shard that is missing in `results`."""
    stage = read_parameters(CollectShard, results / "params" / "collect_shard.json")
    conditioning = open_conditioning(results / "conditioning.safetensors", stage.encode())
    model = find_model(stage.model)
    sigmas = model.compute_sigmas(stage.steps)
    levels = schedule.list_levels(sigmas)

    def begin(rows: np.ndarray) -> tuple[mx.array, Advance]:
        noise = schedule.draw_noise((stage.seed + rows[:, 0]).tolist(), *model.LATENT_SHAPE)
        return schedule.start_latents(noise, sigmas[0]), lambda latents, step: latents * 0.95

    for shard in plan.list_shards(stage):
        out = results / "trajectories.zarr" / shard
        if out.exists():
            continue
        parameters = plan.select_shard(stage, shard)
        inputs = list_inputs(conditioning, parameters.rows) | {"latent_shape": list(model.LATENT_SHAPE)}
        job = SealedJob(out, results / "scratch" / shard, parameters.encode(), inputs)
        with job.hold():
            recorder = Recorder(job, levels)
            recorder.start()
            record_shard(recorder, None, begin)
            recorder.publish()


if __name__ == "__main__":
    record_shards(Path(sys.argv[1]))
