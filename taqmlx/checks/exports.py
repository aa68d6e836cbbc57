"""Checks of exported files: each file is compared with the store."""

from pathlib import Path

import mlx.core as mx
import numpy as np

from taqmlx.checks.results import Report, Results
from taqmlx.store.calibration import FLAT_ARRAYS, list_attributes, open_calibration
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, read_json
from taqmlx.store.original_layout import (
    DAMAGE,
    Sample,
    list_samples,
    name_image,
    name_latents,
    name_sample,
    read_latents,
    read_sample,
)
from taqmlx.store.pictures import read_picture
from taqmlx.store.trajectories import open_shards

PIXEL_TOLERANCE = 1  # out of 255: rounding depends on the batch size


def check_samples(results: Results) -> Report | None:
    """Check that every sample equals the corresponding state in the store."""
    folder = results.folder / "exports" / "samples"
    if not folder.exists():
        return None
    faults, wanted = [], set()
    for shard in open_shards(results.store, results.parameters):
        for row in range(shard.layout.rows):
            for sample in list_samples(shard.read_trajectory(row), shard.small["ts"], shard.small["sigmas"]):
                path = name_sample(folder, sample.image_id, sample.step_index)
                wanted.add(path.name)
                faults += compare_sample(path, sample)
    faults += list_strays(folder, wanted)
    return Report(f"{len(wanted):,} files, equal to the store's states", name_cure(faults, folder))


def compare_sample(path: Path, sample: Sample) -> list[str]:
    """Return one line if the file differs from this sample, else none."""
    try:
        found = read_sample(path)
    except UserError as error:
        return [str(error)]
    same = np.array_equal(found.x, sample.x) and found[1:] == sample[1:]
    return [] if same else [f"{path} is not the state of the store"]


def list_strays(folder: Path, wanted: set[str]) -> list[str]:
    """One line for each unexpected file."""
    return [f"{path} does not belong to it" for path in sorted(folder.glob("[!.]*")) if path.name not in wanted]


def name_cure(faults: list[str], folder: Path) -> list[str]:
    """Append the remedy to each fault: an exported folder is remade as a whole."""
    return [f"{fault}; delete {folder} and run the target exports again" for fault in faults]


def check_latents(results: Results) -> Report | None:
    """Check that the final latents equal the store's, in the decoder's space."""
    folder = results.folder / "exports" / "latents"
    if not folder.exists():
        return None
    faults, wanted = [], set()
    for shard in open_shards(results.store, results.parameters):
        for row in range(shard.layout.rows):
            trajectory = shard.read_trajectory(row)
            path = name_latents(folder, trajectory.number)
            wanted.add(path.name)
            try:
                if not np.array_equal(read_latents(path), np.array(results.model.process_out(trajectory.latents))):
                    faults.append(f"{path} does not match the store's final latents")
            except UserError as error:
                faults.append(str(error))
    faults += list_strays(folder, wanted)
    return Report(f"{len(wanted)} files, equal to the store's, without scale and shift", name_cure(faults, folder))


def check_images(results: Results) -> Report | None:
    """Check that every trajectory has a readable picture; decode a random selection again."""
    folder = results.folder / "exports" / "images"
    if not folder.exists():
        return None
    paths = [name_image(folder, number) for number in range(results.parameters.trajectories)]
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
                faults.append(f"{paths[number]} does not match the decoded final latents")
    faults += [f"{path} is not the decoded picture" for path in find_changed(folder, [paths[i] for i in pictures])]
    faults += list_strays(folder, {path.name for path in paths})
    return Report(f"{len(pictures)} pictures, {len(picks)} of them decoded again", name_cure(faults, folder))


def find_changed(folder: Path, paths: list[Path]) -> list[Path]:
    """Pictures whose digest differs from the manifest of the exports, if there is one."""
    manifest = folder.parent / "manifest.json"
    digests = read_json(manifest).get("sha256", {}) if manifest.exists() else {}
    return [path for path in paths if path.name in digests and hash_file(path) != digests[path.name]]


def read_flat(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz` file. Raises UserError, naming it, if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as flat:
            if sum(member.file_size for member in flat.zip.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed, which export_npz does not do")
            return {name: flat[name] for name in flat.files}
    except DAMAGE as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run export_npz again") from None


def check_flat(results: Results) -> Report | None:
    """Check that the flat calibration file equals the calibration set."""
    path = results.folder / "DiT_cali_data.npz"
    if not path.exists():
        return None
    calibration = open_calibration(results.folder / "calibration.zarr")
    flat, again = read_flat(path), f"delete {path} and run export_npz again"
    wanted = {name: calibration.read(name) for name in FLAT_ARRAYS}
    wanted |= {name: np.array(value) for name, value in list_attributes(calibration.seal["parameters"]).items()}
    faults = [
        f"{path}: {name} is not the calibration set's; {again}"
        for name in sorted(wanted.keys() | flat.keys())
        if name not in flat or name not in wanted or not np.array_equal(flat[name], wanted[name])
    ]
    return Report(f"{calibration.specs['xs'].shape[0]:,} points, equal to the calibration set", faults)
