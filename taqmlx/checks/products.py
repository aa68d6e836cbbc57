"""Checks of results derived from the trajectories: manifest, calibration set, statistics, weights and their config."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from taqmlx.checks.mflux import find_faults, open_transformer
from taqmlx.checks.packed import find_problems
from taqmlx.checks.results import Report, Results
from taqmlx.planning import plan
from taqmlx.store.calibration import open_calibration
from taqmlx.store.files import encode_json, read_json
from taqmlx.store.manifest import Manifest, build_manifest, count_saved, find_staleness, read_seals
from taqmlx.store.packed_checkpoint import open_packed, read_packed_config
from taqmlx.store.quant_config import read_quant_config
from taqmlx.store.seal import read_group_seal
from taqmlx.store.statistics_file import read_statistics, read_statistics_arrays
from taqmlx.store.statistics_merging import describe_statistics, merge_shards
from taqmlx.store.zarr_arrays import find_strays

ROUNDING = 1e-6  # tolerance, relative or absolute, for merging the same shards on another machine


def check_manifest(results: Results) -> Report | None:
    """Check that the manifest matches the current seals."""
    path = results.folder / "manifest.json"
    if not path.exists():
        return None
    wanted = build_manifest(results.parameters, read_seals(results.store, results.parameters))
    return Report(f"{wanted['n_completed']} images, as sealed", list_stale(path, wanted))


def check_export_manifest(results: Results) -> Report | None:
    """Check that the manifest of the exports matches the current seals and the number of files."""
    path = results.folder / "exports" / "manifest.json"
    if not path.exists():
        return None
    # Without the pictures' digests, which are checked with the pictures.
    wanted = build_manifest(results.parameters, read_seals(results.store, results.parameters), count_saved(path.parent))
    counts = f"{wanted['images_saved']} pictures and {wanted['latents_saved']} latents"
    return Report(f"{counts} saved, as they lie there", list_stale(path, wanted))


def list_stale(path: Path, wanted: Manifest) -> list[str]:
    """One line for each difference between the manifest at `path` and `wanted`."""
    return [f"{path} is stale: {reason}; delete it and run again" for reason in find_staleness(read_json(path), wanted)]


def check_calibration(results: Results) -> Report | None:
    """Check that the calibration set matches its seal and was made from these trajectories."""
    path = results.folder / "calibration.zarr"
    if not path.exists():
        return None
    calibration = open_calibration(path)
    calibration.verify()
    sealed, present = calibration.seal["inputs"]["shards"], set(results.shards)
    faults = list(find_strays(path, list(calibration.specs.values())))
    for name in sorted(sealed.keys() | present):
        there = name in present and read_group_seal(results.store / name)["fingerprint"]
        if sealed.get(name) != there:
            faults.append(f"{path} was not made from the current {results.store / name}; delete {path} and run again")
    return Report(f"{calibration.specs['xs'].shape[0]:,} points, as sealed", faults)


def check_statistics(results: Results) -> Report | None:
    """Check that the statistics equal their shards merged again, and were made from the current calibration set."""
    path = results.folder / "activations" / "statistics.json"
    if not path.exists():
        return None
    found = read_statistics(path)
    arrays = read_statistics_arrays(path, found)
    seals, inputs, merged = merge_shards(list((path.parent / "shards").glob("*.safetensors")))
    wanted = json.loads(encode_json(describe_statistics(seals, inputs, path.with_suffix(".safetensors"))))
    again = "delete it and run merge_activations again"
    faults = [f"{path}: {reason}; {again}" for reason in list_differences(found, wanted)]
    for name in sorted(arrays.keys() | merged.keys()):
        if not (name in arrays and name in merged and np.allclose(arrays[name], merged[name], ROUNDING, ROUNDING)):
            faults.append(f"{path.with_suffix('.safetensors')}: {name} differs from the merged shards; {again}")
    calibration = read_group_seal(results.folder / "calibration.zarr")
    if found["origin"]["calibration"] != calibration["fingerprint"]:
        faults.append(f"{path} was not made from the current calibration set; delete it and run again")
    return Report(f"{len(found['inputs'])} inputs at {len(found['steps'])} steps, merged again", faults)


def list_differences(found: Any, wanted: Any, place: str = "") -> Iterator[str]:
    """Yield every place where two JSON values differ, with both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            yield from list_differences(found.get(key), wanted.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for index, pair in enumerate(zip(found, wanted, strict=True)):
            yield from list_differences(*pair, f"{place}[{index}]")
    elif not (found == wanted or is_near(found, wanted)):
        yield f"{place} is {plan.shorten(found)}, its shards give {plan.shorten(wanted)}"


def is_near(found: Any, wanted: Any) -> bool:
    """True if two numbers are equal up to the rounding of another machine."""
    both_floats = isinstance(found, float) and isinstance(wanted, float)
    return both_floats and math.isclose(found, wanted, rel_tol=ROUNDING, abs_tol=ROUNDING)


def check_weights(results: Results) -> Report | None:
    """Check that the packed weights match their config and the blocks' seals."""
    folder = results.folder / "quantized"
    if not folder.exists():
        return None
    intact, problems = find_problems(open_packed(folder), results.folder / "adaround")
    return Report(
        f"{len(intact)} quantized layers, with their blocks' codes",
        [f"{folder}: {p}; delete it and run pack_weights again" for p in problems],
    )


def check_mflux(results: Results) -> Report | None:
    """Check the transformer in the layout of mflux, and that it was made from the packed weights as they are."""
    folder = results.folder / "mflux" / "transformer"
    if not folder.exists():
        return None
    saved, source = open_transformer(folder), results.folder / "quantized"
    faults = find_faults(saved)
    if saved.seal["inputs"].get("quantized") != read_packed_config(source)["model"]["sha256"]:
        faults.append(f"was not made from {source} as it is")
    return Report(
        f"{len(saved.files)} tensors, those of mflux",
        [f"{folder}: {fault}; delete it and run export_mflux again" for fault in faults],
    )


def check_quant_config(results: Results) -> Report | None:
    """Check that the quantization config is intact and was made from the current statistics and calibration set."""
    path = results.folder / "quant_config.json"
    if not path.exists():
        return None
    config = read_quant_config(path)
    origin, faults = config.content["origin"], []
    statistics = results.folder / "activations" / "statistics.json"
    if origin["statistics"]["fingerprint"] != plan.fingerprint(read_statistics(statistics)):
        faults.append(f"{path} was not made from the current {statistics}; delete it and run again")
    calibration = results.folder / "calibration.zarr"
    if origin["calibration"]["fingerprint"] != read_group_seal(calibration)["fingerprint"]:
        faults.append(f"{path} was not made from the current {calibration}; delete it and run again")
    return Report(f"{len(config.layers)} layers, and the files it names", faults)
