"""Observations of every linear input and timestep: as objects to merge, arrays to store, and numbers to report."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from datasketches import tdigest_double as TDigest

from taqmlx.numerics import sketch, statistics
from taqmlx.numerics.statistics import ChannelStatistics
from taqmlx.planning.documents import InputStatistics
from taqmlx.planning.layers import reads_gelu

QUANTILES = {"p0.1": 0.001, "p1": 0.01, "p99": 0.99, "p99.9": 0.999}
OVERALL_QUANTILES = {f"p{percent}": percent / 100 for percent in (1, 5, 10, 25, 50, 75, 90, 95, 99)}


class Observation(NamedTuple):
    """Observation of one linear input at one timestep."""

    channels: ChannelStatistics
    sketch: TDigest


Observations = dict[str, list[Observation]]  # linear input: one observation per step


def create_observation(channels: int) -> Observation:
    """Empty observation of an input with `channels` channels."""
    return Observation(statistics.create_empty(channels), sketch.create_sketch())


def add_batch(observation: Observation, channels: ChannelStatistics, sample: np.ndarray) -> Observation:
    """`observation` with the channel statistics and the sampled values of one batch added."""
    if sample.size:
        sketch.add_values(observation.sketch, sample)
    return Observation(statistics.merge_pair(observation.channels, channels), observation.sketch)


def merge_observations(shards: Sequence[Observations]) -> Observations:
    """Merged observations of all shards, merged in the order of `shards`. A shard may lack an input."""
    names = sorted({name for shard in shards for name in shard})
    steps = {name: zip(*(shard[name] for shard in shards if name in shard), strict=True) for name in names}
    return {name: [merge_step(step) for step in steps[name]] for name in names}


def merge_step(shards: Sequence[Observation]) -> Observation:
    """Merged observation of one input at one step."""
    return Observation(
        statistics.merge(shard.channels for shard in shards), sketch.merge_sketches(shard.sketch for shard in shards)
    )


def pack_observations(observations: Observations) -> dict[str, np.ndarray]:
    """Observations as arrays `<input>/<field>`, (steps,) or (steps, D) each, with the sketches' bytes concatenated."""
    arrays = {}
    for name, steps in observations.items():
        for field in ChannelStatistics._fields:
            arrays[f"{name}/{field}"] = np.stack([getattr(step.channels, field) for step in steps])
        encoded = [sketch.encode_sketch(step.sketch) for step in steps]
        arrays[f"{name}/sketch"] = np.concatenate(encoded)
        arrays[f"{name}/sketch_bytes"] = np.array([len(data) for data in encoded])
    return arrays


def unpack_observations(arrays: Mapping[str, np.ndarray]) -> Observations:
    """Observations from the arrays of `pack_observations`."""
    names = sorted({key.rsplit("/", 1)[0] for key in arrays})
    return {name: unpack_input(arrays, name) for name in names}


def list_numbers(observations: Observations) -> dict[str, np.ndarray]:
    """Statistics of the steps with rows, by `<input>/<field>`; steps without rows have infinite extremes."""
    return {
        f"{name}/{field}": np.array([getattr(step.channels, field) for step in steps if step.channels.rows])
        for name, steps in observations.items()
        for field in ChannelStatistics._fields
    }


def unpack_input(arrays: Mapping[str, np.ndarray], name: str) -> list[Observation]:
    """Observations of one input, one per step."""
    ends = np.cumsum(arrays[f"{name}/sketch_bytes"])
    encoded = np.split(arrays[f"{name}/sketch"], ends[:-1])
    columns = [arrays[f"{name}/{field}"] for field in ChannelStatistics._fields]
    return [
        Observation(ChannelStatistics(int(rows), int(negatives), *vectors), sketch.decode_sketch(data))
        for rows, negatives, *vectors, data in zip(*columns, encoded, strict=True)
    ]


def describe_input(name: str, steps: Sequence[Observation]) -> tuple[InputStatistics, dict[str, np.ndarray]]:
    """Summary of one input (lists over steps, and overall quantiles) and its arrays (steps, D), `<input>/<field>`.

    Post-GELU inputs also have the static shift (D,) and the per-step absmax after the shift.
    """
    rows = [
        statistics.describe_tensor(step.channels)
        | dict(zip(QUANTILES, sketch.read_quantiles(step.sketch, QUANTILES.values()), strict=True))
        for step in steps
    ]
    per_step = {key: [row[key] for row in rows] for key in rows[0]}
    arrays = {
        f"{name}/{field}": np.stack([getattr(step.channels, field) for step in steps])
        for field in ("minimum", "maximum", "mean")
    }
    arrays[f"{name}/std"] = np.stack([statistics.compute_deviation(step.channels) for step in steps])
    if reads_gelu(name):
        extremes = arrays[f"{name}/minimum"], arrays[f"{name}/maximum"]
        arrays[f"{name}/shift"] = shift = statistics.compute_shift(*extremes)
        per_step["shifted_absmax"] = statistics.compute_shifted_absmax(*extremes, shift).tolist()
    together = sketch.merge_sketches(step.sketch for step in steps)
    described: InputStatistics = {
        "channels": len(steps[0].channels.mean),
        "rows": [step.channels.rows for step in steps],
        "arrays": sorted(arrays),
        "per_step": per_step,
        "overall": dict(
            zip(OVERALL_QUANTILES, sketch.read_quantiles(together, OVERALL_QUANTILES.values()), strict=True)
        ),
    }
    return described, arrays
