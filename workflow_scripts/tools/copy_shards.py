"""Copy the finished shards of one store to another; each store is a folder or a URL.

Every shard is verified while it is copied. Existing shards are skipped; unfinished ones are not copied.
"""

import argparse
import tempfile
from pathlib import Path

from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard, ShardParameters
from taqmlx.runtime.entry import Progress, add_location, build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.locations import Location
from taqmlx.store.parameters import read_parameters
from taqmlx.store.publishing import fetch_group, publish_group
from taqmlx.store.seal import check_origin, holds_group, read_group_seal
from taqmlx.store.trajectories import find_faults


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(CollectShard, arguments.params)
    shards = plan.list_shards(parameters)
    finished = [name for name in shards if (arguments.trajectories / name / "zarr.json").is_file()]
    progress, copied = Progress("copy", len(finished), "shards"), 0
    for name in finished:
        job = plan.select_shard(parameters, name)
        copied += copy_shard(arguments.trajectories / name, arguments.to / name, job)
        progress.advance()
    there = len(finished) - copied
    log.info(f"{arguments.to}: {copied} shards copied, {there} already there, {len(shards) - len(finished)} unfinished")


def copy_shard(source: Location, out: Location, job: ShardParameters) -> bool:
    """Copy one shard. Returns False if it exists already. Raises UserError naming a damaged file or a conflicting
    shard.
    """
    seal, parameters = read_group_seal(source), job.encode()
    check_origin(seal, source, parameters, {})
    if holds_group(out, parameters, seal["inputs"]):
        return False
    beside = out.parent if isinstance(out, Path) else None  # renaming works only within one file system
    if beside:
        beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.partial", dir=beside) as scratch:
        group = Path(scratch) / "group"
        fetch_group(source, group)
        for fault in find_faults(group, parameters, seal["inputs"]):
            raise UserError(fault.replace(str(group), str(source)))
        publish_group(group, out)
    return True


if __name__ == "__main__":
    parser = build_parser(__doc__, "params")
    add_location(parser, "trajectories", help="store to copy from")
    add_location(parser, "to", help="store to copy to")
    run(main, parser)
