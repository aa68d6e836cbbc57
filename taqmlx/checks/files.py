"""Check of every file of a results folder against its checksum, and a list of files without one."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from taqmlx.checks.recorded_digests import Claims, find_fault, list_claims, say_how
from taqmlx.checks.results import Report, Results
from taqmlx.planning import plan
from taqmlx.store.block_inputs import open_input_shard
from taqmlx.store.calibration import open_calibration
from taqmlx.store.checksum_files import SUMS
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_plain_json
from taqmlx.store.seal import check_seal
from taqmlx.store.trajectories import find_faults
from taqmlx.store.zarr_arrays import find_strays

# Files without checksum because they are not results. Patterns are relative to a results folder, as everywhere here.
NO_RESULTS = {
    "logs/*": "a log",
    "benchmarks/*": "measured time and memory",
    "scratch/*": "work in progress",
    "*.checkpoint.safetensors": "work in progress",
    "*.lock": "a lock",
    ".*": "a Snakemake marker, or left by a killed job",
    "config.yaml": "settings",
}
# Files that earlier versions wrote without a checksum, and the target that remakes them with one, if it has a name.
EARLIER = {
    "plots/ablation_*": "ablation",
    "plots/*": "plots",
    "report.html": "report",
    "ablation.md": "ablation",
    "weights_ladder.md": "",
    "activations/ranges.md": "activations",
    "activations/layer_*.json": "analysis",
    "activations/quantization_config.json": "analysis",
    "DiT_cali_data.npz": "calibration",
    "exports/*/*": "exports",
    "embedded_model/*": "train_embedded_model",
}


def list_calibration_faults(path: Path) -> Iterator[str]:
    """Yield a line for each fault of a calibration set. Raises UserError."""
    calibration = open_calibration(path)
    calibration.verify()
    yield from find_strays(path, list(calibration.specs.values()))


def list_block_input_faults(path: Path) -> Iterator[str]:
    """Yield a line for each fault of a shard of the block inputs. Raises UserError."""
    shard = open_input_shard(path)
    shard.verify()
    yield from find_strays(path, list(shard.specs.values()))


def list_shard_faults(path: Path) -> Iterator[str]:
    """Yield a line for each fault of a shard of trajectories, or of its receipt. Raises UserError."""
    if (path / plan.RECEIPT).is_file():
        check_seal(read_plain_json(path / plan.RECEIPT, whole=path), path)
    else:
        yield from find_faults(path, {}, {})


# Folders sealed as a whole, and the functions that read all their content.
GROUPS: dict[str, Callable[[Path], Iterator[str]]] = {
    "trajectories.zarr/*": list_shard_faults,
    "calibration.zarr": list_calibration_faults,
    "block_inputs.zarr/[0-9][0-9]": list_block_input_faults,
    "block_inputs.zarr/*/[0-9][0-9]/[0-9][0-9]": list_block_input_faults,
}


def check_files(results: Results) -> Report:
    """Check every file against its own checksum, a seal or a checksum file."""
    folder = results.folder
    names, groups = walk(folder)
    kinds = {name: find_match(name, NO_RESULTS) for name in names}
    plain = [folder / name for name in names if kinds[name] is None]
    claims, faults = collect_claims(plain)
    found = {path: find_fault(path, claims[path]) for path in plain}
    faults += [*filter(None, found.values()), *find_missing(claims)]
    read_by_others = {results.store / shard for shard in results.folders} | {folder / "calibration.zarr"}
    for group in sorted(set(groups) - read_by_others):
        faults += read_group(group)
    unrecorded = [path for path, fault in found.items() if fault is None and path.suffix != SUMS]
    notes = [*list_no_results(folder, kinds.values()), *list_without_checksum(folder, unrecorded)]
    return Report(f"{len(plain) - len(unrecorded)} files and {len(groups)} sealed folders", faults, notes)


def walk(folder: Path) -> tuple[list[str], list[Path]]:
    """List all files below `folder`, sorted, except those in folders sealed as a whole; and these folders.

    Links into `folder` are skipped.
    """
    names, groups, root = [], [], folder.resolve()
    for place, folders, files in os.walk(folder, followlinks=True):
        parent = Path(place)
        own = [name for name in folders if not leads_inside(parent / name, root)]
        sealed = [name for name in own if is_group((parent / name).relative_to(folder).as_posix())]
        groups += [parent / name for name in sealed]
        folders[:] = [name for name in own if name not in sealed]
        paths = [parent / name for name in files]
        names += [path.relative_to(folder).as_posix() for path in paths if not leads_inside(path, root)]
    return sorted(names), sorted(groups)


def is_group(name: str) -> bool:
    """True if the folder `name` is sealed as a whole once finished."""
    return find_match(name, NO_RESULTS) is None and find_match(name, GROUPS) is not None


def leads_inside(path: Path, root: Path) -> bool:
    """True if `path` is a link to a target below `root` or to a parent of it."""
    if not path.is_symlink():
        return False
    target = path.resolve()
    return target.is_relative_to(root) or root.is_relative_to(target)


def find_match(name: str, patterns: Iterable[str]) -> str | None:
    """First pattern that matches `name`, relative to this results folder or to one nested in it."""
    return next((pattern for pattern in patterns if fnmatchcase(f"/{name}", f"*/{pattern}")), None)


def read_group(group: Path) -> list[str]:
    """One line for each fault of a folder sealed as a whole."""
    read = GROUPS[str(find_match(group.as_posix(), GROUPS))]
    try:
        return list(read(group))
    except UserError as error:
        return [str(error)]


def collect_claims(paths: Iterable[Path]) -> tuple[Claims, list[str]]:
    """Collect the digests recorded for each file, and a line for each unreadable checksum file."""
    claims, faults = defaultdict(list), []
    for path in paths:
        try:
            for claimed, claim in list_claims(path):
                claims[claimed].append(claim)
        except UserError as error:
            faults += [str(error)] if path.suffix == SUMS else []  # a damaged JSON file is found by its checksum
    return claims, faults


def find_missing(claims: Claims) -> Iterator[str]:
    """Yield a line for each missing file that has a recorded digest.

    A checksum file whose files are all missing is skipped: the result is not made yet, or no longer wanted.
    """
    by_record: dict[Path, dict[Path, Path]] = defaultdict(dict)
    for path, claim in ((path, claim) for path, own in claims.items() for claim in own):
        by_record[claim.record][path] = claim.target
    for record, targets in by_record.items():
        there = [path for path in targets if path.is_file()]
        if record.suffix != SUMS or there:
            for path in targets.keys() - there:
                # Snakemake remakes only missing files, together with all outputs of the same job.
                target = targets[there[0]] if there else targets[path]
                yield f"{path} is missing, but listed in {record}; delete {target} and {say_how(target)}"


def list_no_results(folder: Path, patterns: Iterable[str | None]) -> Iterator[str]:
    """Yield a line for each kind of file that has no checksum by design, given the pattern of each file."""
    for pattern, count in Counter(filter(None, patterns)).items():
        yield f"{folder}/{pattern}: no checksum: {NO_RESULTS[pattern]} ({count})"


def list_without_checksum(folder: Path, paths: Sequence[Path]) -> Iterator[str]:
    """Yield a line for each kind of file from earlier versions without a checksum, and for each other such file."""
    kinds = {path: find_match(path.relative_to(folder).as_posix(), EARLIER) for path in paths}
    for pattern, count in Counter(filter(None, kinds.values())).items():
        how = f"delete what is there and make {EARLIER[pattern] or folder / pattern} again"
        yield f"{folder}/{pattern}: no checksum: made by an earlier version ({count}); {how}"
    for path in (path for path, pattern in kinds.items() if pattern is None):
        yield f"{path}: no checksum: not from this workflow, unfinished, or its checksum was removed"
