"""Activation statistics of all layer inputs, merged from the observations of the shards."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from taqmlx.numerics import sketch
from taqmlx.numerics.observations import (
    OVERALL_QUANTILES,
    QUANTILES,
    Observations,
    describe_input,
    list_numbers,
    merge_observations,
    unpack_observations,
)
from taqmlx.planning import plan
from taqmlx.planning.documents import InputStatistics, Statistics
from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.files import hash_file
from taqmlx.store.seal import Seal, identify_work, read_file_seal
from taqmlx.store.statistics_file import FORMAT
from taqmlx.store.tensors import read_tensors, reject_nonfinite


def merge_shards(shards: Sequence[Path]) -> tuple[list[Seal], dict[str, InputStatistics], dict[str, np.ndarray]]:
    """Return the seals of the shards, and their merged statistics: numbers by input, and the corresponding arrays.

    Raises UserError unless the shards are intact, complete and of the same origin.
    """
    paths = sorted(shards, key=lambda path: path.name)
    seals = [read_observations_seal(path) for path in paths]
    check_shards(seals, paths)
    merged = merge_observations([read_observations(path) for path in paths])
    with report_damage(paths[0].parent):
        described = {name: describe_input(name, steps) for name, steps in merged.items()}
    arrays = {key: array for _, arrays in described.values() for key, array in arrays.items()}
    return seals, {name: numbers for name, (numbers, _) in described.items()}, arrays


def read_observations(path: Path) -> Observations:
    """Read the observations of a shard. Raises UserError, naming input and number, if unreadable or not finite."""
    tensors = read_tensors(path)
    with report_damage(path):
        observations = unpack_observations(tensors)
        numbers = list_numbers(observations)
    reject_nonfinite(path, numbers, f"delete {path} and run collect_activations again")
    return observations


def read_observations_seal(path: Path) -> Seal:
    """Read the seal beside a shard. Raises UserError if it is damaged or does not match the shard's bytes."""
    seal = read_file_seal(path.with_suffix(".json"))
    if not path.is_file() or seal["sha256"] != {path.name: hash_file(path)}:
        raise UserError(f"{path} is missing or does not match its seal; delete it and run collect_activations again")
    return seal


def check_shards(seals: Sequence[Seal], paths: Sequence[Path]) -> None:
    """Raise UserError unless the shards are complete and of the same origin."""
    origins = [seal["parameters"] | seal["inputs"] for seal in seals]
    with report_damage(paths[0].parent):
        found = [origin["shard"] for origin in origins]
        expected = plan.list_stage_shards(origins[0]["statistics_shards"])
    for origin, path in zip(origins, paths, strict=True):
        wanted = origins[0] | {"shard": origin["shard"]}
        if difference := plan.describe_difference(origin, wanted):
            raise UserError(f"{path} does not belong with {paths[0]} ({difference}); run collect_activations again")
    if found != expected:
        raise UserError(
            f"shards {', '.join(expected)} are needed and {', '.join(found)} are named; name each shard once"
        )


def describe_statistics(seals: Sequence[Seal], inputs: dict[str, InputStatistics], arrays: Path) -> Statistics:
    """Content of the statistics file: per-step values are lists over `steps`, overall values cover all steps."""
    parameters = seals[0]["parameters"]
    layers = plan.list_layers(parameters["model"])
    for name, described in inputs.items():
        described["layers"] = [layer.name for layer in layers if layer.input == name]
    return {
        **FORMAT,
        "model": parameters["model"],
        "steps": [step for step, _ in parameters["sigmas"]],
        "sigmas": [sigma for _, sigma in parameters["sigmas"]],
        "arrays": {"file": arrays.name, "sha256": hash_file(arrays)},
        "quantiles": {
            "of": (
                f"a sample of at most {sketch.VALUES_PER_ROW} evenly strided values of each row and input,"
                f" for at most {sketch.POINTS_PER_STEP} points of each step"
            ),
            "sketch": f"t-digest, k = {sketch.COMPRESSION}",
            "shares": QUANTILES,
            "overall_shares": OVERALL_QUANTILES,
        },
        "inputs": inputs,
        "origin": {"calibration": seals[0]["inputs"]["calibration"], "parts": [identify_work(seal) for seal in seals]},
    }
