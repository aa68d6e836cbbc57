"""Export every state of every trajectory as `samples/{image}_{step}.npz`, the layout of earlier programs.

The states are the store's float16 states, written as float32. The last sample of an image holds its final latents in
full precision.
"""

import argparse
from pathlib import Path

from taqmlx.planning.stages import CollectShard
from taqmlx.runtime.entry import Progress, add_location, build_parser, log, run
from taqmlx.store.checksum_files import write_checksummed_folder
from taqmlx.store.original_layout import list_samples, name_sample, write_sample
from taqmlx.store.parameters import read_parameters
from taqmlx.store.trajectories import open_shards


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(CollectShard, arguments.params)
    progress = Progress("export", parameters.trajectories, "trajectories")

    def fill(folder: Path) -> None:
        for shard in open_shards(arguments.trajectories, parameters):
            for row in range(shard.layout.rows):
                for sample in list_samples(shard.read_trajectory(row), shard.small["ts"], shard.small["sigmas"]):
                    write_sample(name_sample(folder, sample.image_id, sample.step_index), sample)
                progress.advance()

    write_checksummed_folder(arguments.out, fill)
    log.info(f"exported {parameters.trajectories * (parameters.steps + 1)} samples: {arguments.out}")


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "out")
    add_location(parser, "trajectories")
    run(main, parser)
