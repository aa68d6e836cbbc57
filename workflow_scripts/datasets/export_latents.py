"""Export every trajectory's final latents as `.npy` files in the decoder's space, as earlier programs did."""

import argparse
from pathlib import Path

import numpy as np

from taqmlx.models.catalogue import find_model
from taqmlx.planning.stages import CollectShard
from taqmlx.runtime.entry import Progress, add_location, build_parser, log, run
from taqmlx.store.checksum_files import write_checksummed_folder
from taqmlx.store.original_layout import name_latents, write_latents
from taqmlx.store.parameters import read_parameters
from taqmlx.store.trajectories import open_shards


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(CollectShard, arguments.params)
    process_out = find_model(parameters.model, parameters).process_out
    progress = Progress("export", parameters.trajectories, "latents")

    def fill(folder: Path) -> None:
        for shard in open_shards(arguments.trajectories, parameters):
            for row in range(shard.layout.rows):
                trajectory = shard.read_trajectory(row)
                write_latents(name_latents(folder, trajectory.number), np.array(process_out(trajectory.latents)))
                progress.advance()

    write_checksummed_folder(arguments.out, fill)
    log.info(f"exported {parameters.trajectories} latents: {arguments.out}")


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "out")
    add_location(parser, "trajectories")
    run(main, parser)
