"""Gather the calibration set: the selected steps of every trajectory, shuffled, with the prompts' encodings.

Every seal is checked first, every trajectory when it is read, and the whole set after it is written.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from taqmlx.numerics.calibration_points import select_steps, shuffle_points
from taqmlx.planning import plan
from taqmlx.planning.documents import Inputs
from taqmlx.planning.stages import CollectShard, GatherCalibration
from taqmlx.runtime.entry import Progress, add_location, build_parser, log, run
from taqmlx.store.block_inputs import count_bytes
from taqmlx.store.calibration import list_attributes, list_specs, open_calibration
from taqmlx.store.conditioning import Conditioning, list_inputs, open_conditioning
from taqmlx.store.errors import UserError
from taqmlx.store.gather import Selection, gather_points, write_conditions
from taqmlx.store.locations import Location
from taqmlx.store.parameters import read_parameters
from taqmlx.store.preflight import check_disk
from taqmlx.store.seal import check_origin, holds_group, read_group_seal
from taqmlx.store.sealed_job import SealedJob
from taqmlx.store.trajectories import Shard, Trajectory, check_root, open_shard
from taqmlx.store.zarr_arrays import ArraySpec, create_group

# Parameters that differ between shards; all others must be equal.
OWN = ("shard", "prompts", "rows")


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(GatherCalibration, arguments.params)
    conditioning = open_conditioning(arguments.conditioning, parameters.encode())
    inputs = check_shards(arguments.trajectories, parameters, conditioning)
    scratch = arguments.out.parent / "scratch" / arguments.out.stem
    job = SealedJob(arguments.out, scratch, parameters.encode(), inputs)
    with job.hold():
        if job.is_finished(holds_group):
            return
        job.clear()
        check_disk(job.scratch, count_needed_bytes(parameters, inputs), "choose a results_dir elsewhere")
        build_group(job, arguments.trajectories, parameters, conditioning)
    log.info(f"gathered {count_points(parameters)} points of {parameters.trajectories} trajectories: {job.out}")


def count_points(parameters: GatherCalibration) -> int:
    """Number of points of the set."""
    return parameters.trajectories * parameters.selected_steps


def select_wanted(parameters: GatherCalibration, shard: str) -> plan.Parameters:
    """Parameters that the seal of `shard` must have, as far as this stage's parameters determine them."""
    return {
        "stage": CollectShard.stage,
        "version": CollectShard.version,
        "model": parameters.model,
        "steps": parameters.steps,
        "seed": parameters.seed,
        "cfg_scale": parameters.cfg_scale,
        "shard": shard,
        "prompts": plan.list_shard_prompts(parameters, shard),
        "rows": plan.list_rows(parameters, shard),
    }


def check_shards(store: Location, parameters: GatherCalibration, conditioning: Conditioning) -> Inputs:
    """Inputs of the set: the fingerprints of all shards and of the encodings, and the shapes.

    Raises UserError unless every shard has an intact seal, made with these parameters and encodings and otherwise with
    the same settings as the other shards.
    """
    fingerprints: dict[str, str] = {}
    first: Mapping[str, Any] = {}
    check_root(store)
    for shard in plan.list_shards(parameters):
        wanted = select_wanted(parameters, shard)
        seal = read_group_seal(store / shard)
        first = first or seal
        settings = {key: value for key, value in first["parameters"].items() if key not in OWN}
        inputs = list_inputs(conditioning, wanted["rows"]) | {"latent_shape": first["inputs"]["latent_shape"]}
        check_origin(seal, store / shard, settings | wanted, inputs)
        fingerprints[shard] = seal["fingerprint"]
    return {
        "shards": fingerprints,
        "conditioning": conditioning.seal["fingerprint"],
        "model": conditioning.weights,
        "latent_shape": first["inputs"]["latent_shape"],
    } | conditioning.read_shapes()


def list_arrays(parameters: GatherCalibration, inputs: Inputs) -> dict[str, ArraySpec]:
    """Array specifications of the set, by name."""
    return list_specs(
        count_points(parameters), *(inputs[name] for name in ("latent_shape", "cs_shape", "cs_pooled_shape"))
    )


def count_needed_bytes(parameters: GatherCalibration, inputs: Inputs) -> int:
    """Uncompressed size in bytes of the set, plus that of the flat file used to shuffle its points."""
    specs = list_arrays(parameters, inputs)
    return count_bytes(specs) + count_bytes({"flat": specs["xs"]})


def build_group(job: SealedJob, store: Location, parameters: GatherCalibration, conditioning: Conditioning) -> None:
    """Write, seal, verify and publish the set. Raises UserError naming a damaged shard or array."""
    path, specs = job.group, list_arrays(parameters, job.inputs)
    create_group(path, list(specs.values()), list_attributes(job.parameters))
    selection = describe_selection(open_first(store, parameters), parameters)
    digests = gather_points(job.scratch / "flat", read_trajectories(store, parameters), selection, path, specs)
    digests |= write_conditions(conditioning, len(parameters.prompts), path, specs)
    job.publish_group(digests, lambda group: open_calibration(group).verify())


def open_first(store: Location, parameters: GatherCalibration) -> Shard:
    """The first shard, whose schedule all shards share."""
    shard = plan.list_shards(parameters)[0]
    return open_shard(store / shard, select_wanted(parameters, shard), {})


def describe_selection(shard: Shard, parameters: GatherCalibration) -> Selection:
    """The points to gather, with the schedule of `shard`."""
    steps = select_steps(parameters.steps, parameters.selected_steps)
    permutation = shuffle_points(parameters.trajectories * len(steps), parameters.seed)
    return Selection(steps, shard.small["ts"][steps], shard.small["sigmas"][steps], permutation)


def read_trajectories(store: Location, parameters: GatherCalibration) -> Iterator[Trajectory]:
    """Yield all trajectories, verified, shard by shard. Raises UserError if the schedules of shards differ."""
    progress = Progress("gather", parameters.trajectories, "trajectories")
    schedule = open_first(store, parameters).seal["sha256"]["arrays"]
    for name in plan.list_shards(parameters):
        shard = open_shard(store / name, select_wanted(parameters, name), {})
        if any(shard.seal["sha256"]["arrays"][key] != schedule[key] for key in ("ts", "sigmas")):
            raise UserError(f"{shard.path} has another schedule than the first shard; delete it and run again")
        for row in range(shard.layout.rows):
            trajectory = shard.read_trajectory(row)
            reject_nonfinite(shard.path, trajectory)
            yield trajectory
            progress.advance()


def reject_nonfinite(path: Location, trajectory: Trajectory) -> None:
    """Raise UserError, naming trajectory and step, if a state or the final latents are not finite."""
    states = [*trajectory.states, trajectory.latents]
    for step, state in enumerate(states):
        if not np.isfinite(state).all():
            raise UserError(
                f"{path}: trajectory {trajectory.number} has values that are not finite at step {step}; check the"
                f" model's weights, delete {path} and run again"
            )


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "conditioning", "out")
    add_location(parser, "trajectories")
    run(main, parser)
