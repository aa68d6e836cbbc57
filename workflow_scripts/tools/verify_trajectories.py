"""Verify every trajectory shard: seal, files, checksums, digests and parameters. Lists each fault by file."""

import argparse

from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard
from taqmlx.runtime.entry import Progress, add_location, build_parser, log, run
from taqmlx.store.conditioning import list_inputs, open_conditioning
from taqmlx.store.errors import UserError
from taqmlx.store.parameters import read_parameters
from taqmlx.store.trajectories import find_faults


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(CollectShard, arguments.params)
    conditioning = open_conditioning(arguments.conditioning, parameters.encode())
    shards = plan.list_shards(parameters)
    progress = Progress("verify", len(shards), "shards")
    count = 0
    for shard in shards:
        job = plan.select_shard(parameters, shard)
        for fault in find_faults(arguments.trajectories / shard, job.encode(), list_inputs(conditioning, job.rows)):
            log.error(fault)
            count += 1
        progress.advance()
    if count:
        raise UserError(f"{arguments.trajectories} has {count} fault{'s' * (count > 1)}, listed above")
    counts = f"{len(shards)} shards, {parameters.trajectories} trajectories"
    log.info(f"{arguments.trajectories}: {counts}, all match their seals")


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "conditioning")
    add_location(parser, "trajectories")
    run(main, parser)
