"""Checks of what was exported for other programs: each file against the store."""

from pathlib import Path

import mlx.core as mx
import numpy as np

from workflow_scripts.checks.results import Report, Results
from workflow_scripts.store.calibration import open_calibration
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.original_layout import (
    Sample,
    list_samples,
    name_image,
    name_latents,
    name_sample,
    read_latents,
    read_sample,
)
from workflow_scripts.store.pictures import read_picture
from workflow_scripts.store.trajectories import open_shards

PIXEL_TOLERANCE = 1  # of 255: another batch size may round another way


def check_samples(results: Results) -> Report | None:
    """Whether every sample is the state of the store that its name says."""
    folder = results.folder / "exports" / "samples"
    if not folder.exists():
        return None
    faults, wanted = [], set()
    for shard in open_shards(results.store, results.stage):
        for row in range(shard.layout.rows):
            for sample in list_samples(shard.read_trajectory(row), shard.small["ts"], shard.small["sigmas"]):
                path = name_sample(folder, sample.image_id, sample.step_index)
                wanted.add(path.name)
                faults += compare_sample(path, sample)
    return Report(f"{len(wanted):,} files, equal to the store's states", faults + list_strays(folder, wanted))


def compare_sample(path: Path, sample: Sample) -> list[str]:
    """A line unless the file holds this sample."""
    try:
        found = read_sample(path)
    except UserError as error:
        return [str(error)]
    same = np.array_equal(found.x, sample.x) and found[1:] == sample[1:]
    return [] if same else [f"{path} is not the state of the store"]


def list_strays(folder: Path, wanted: set[str]) -> list[str]:
    """A line for each file that does not belong."""
    return [f"{path} does not belong to it" for path in sorted(folder.glob("[!.]*")) if path.name not in wanted]


def check_latents(results: Results) -> Report | None:
    """Whether the final latents are the store's, in the decoder's space."""
    folder = results.folder / "exports" / "latents"
    if not folder.exists():
        return None
    faults, wanted = [], set()
    for shard in open_shards(results.store, results.stage):
        for row in range(shard.layout.rows):
            trajectory = shard.read_trajectory(row)
            path = name_latents(folder, trajectory.number)
            wanted.add(path.name)
            try:
                if not np.array_equal(read_latents(path), np.array(results.model.process_out(trajectory.latents))):
                    faults.append(f"{path} is not what the store's final latents give")
            except UserError as error:
                faults.append(str(error))
    return Report(
        f"{len(wanted)} files, equal to the store's, past scale and shift", faults + list_strays(folder, wanted)
    )


def check_images(results: Results) -> Report | None:
    """Whether there is a readable picture of every trajectory; random ones are decoded again."""
    folder = results.folder / "exports" / "images"
    if not folder.exists():
        return None
    paths = [name_image(folder, number) for number in range(results.stage["trajectories"])]
    faults, pictures = [], {}
    for number, path in enumerate(paths):
        try:
            pictures[number] = np.asarray(read_picture(path)).astype(int)
        except UserError as error:
            faults.append(str(error).partition(";")[0])
    picks = set(np.random.default_rng(results.seed).permutation(list(pictures))[: results.picks].tolist())
    decoder = results.model.load_decoder() if picks else None
    for shard, row, number in results.iterate_rows():
        if number in picks:
            latents = results.plan_layout(shard).read_latents(results.store / shard, row)
            wanted = results.model.decode_latents(decoder, mx.array(latents[None]))[0]
            if pictures[number].shape != wanted.shape or np.abs(pictures[number] - wanted).max() > PIXEL_TOLERANCE:
                faults.append(f"{paths[number]} is not what the final latents decode to")
    faults += list_strays(folder, {path.name for path in paths})
    return Report(f"{len(pictures)} pictures, {len(picks)} of them decoded again", faults)


def check_flat(results: Results) -> Report | None:
    """Whether the flat calibration file holds the calibration set."""
    path = results.folder / "DiT_cali_data.npz"
    if not path.exists():
        return None
    calibration = open_calibration(results.folder / "calibration.zarr")
    faults = []
    with np.load(path, allow_pickle=False) as flat:
        for name in ("xs", "ts", "prompt_indices", "cs", "cs_pooled"):
            if name not in flat or not np.array_equal(flat[name], calibration.read(name)):
                faults.append(f"{path}: {name} is not the calibration set's")
    return Report(f"{calibration.specs['xs'].shape[0]:,} points, equal to the calibration set", faults)
