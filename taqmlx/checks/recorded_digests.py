"""Recorded digests of a file: its own checksum, or a digest in a seal, in a file that references it, or in a checksum
file."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from taqmlx.planning import plan
from taqmlx.store.checksum_files import SUMS, name_result, read_sums
from taqmlx.store.errors import UserError
from taqmlx.store.files import CHECKSUM, hash_file, is_unchanged, read_plain_json
from taqmlx.store.tensors import read_metadata, read_sealed_tensors
from taqmlx.store.trajectories import ROOT

SEAL_KEYS = {"parameters", "inputs", "fingerprint", "sha256"}
UNMADE = {"versions.json"}  # written by every run, not by a target


class Claim(NamedTuple):
    """Digest that the file `record` records for another file, and the target that remakes both."""

    sha256: str
    record: Path
    target: Path


Claims = dict[Path, list[Claim]]


def list_claims(path: Path) -> Iterator[tuple[Path, Claim]]:
    """Yield the digests that a file records for others. Raises UserError if it is damaged."""
    if path.suffix == SUMS:
        yield from list_sums_claims(path)
    elif path.suffix == ".json":
        yield from list_json_claims(path, read_plain_json(path))


def list_sums_claims(sums: Path) -> Iterator[tuple[Path, Claim]]:
    """Yield the entries of a checksum file. Raises UserError, with the remedy, if it is damaged."""
    place = name_result(sums)
    try:
        digests = read_sums(sums)
    except UserError as error:
        made = [
            path for path in (place, *sorted(sums.parent.glob(f"{place.name}.*"))) if path.exists() and path != sums
        ]
        raise UserError(f"{error}; delete it" + (f" and {made[0]} and {say_how(made[0])}" if made else "")) from None
    for name, digest in digests.items():
        is_in_folder = name.startswith(f"{place.name}/")
        yield sums.parent / name, Claim(digest, sums, place if is_in_folder else sums.parent / name)


def list_json_claims(path: Path, content: Any) -> Iterator[tuple[Path, Claim]]:
    """Yield digests in the `content` of a JSON file: a seal's, or those of entries with `file` and `sha256`."""
    if not isinstance(content, dict):
        return
    sealed = content["sha256"] if content.keys() >= SEAL_KEYS else {}
    for name, digest in sealed.items() if isinstance(sealed, dict) else ():
        if isinstance(digest, str):
            yield path.parent / name, Claim(digest, path, path)
        elif isinstance(digest, list) and PurePosixPath(name).suffix:  # digests of a picture and its latents
            picture = path.with_suffix("") / name
            for file, own in zip((picture, picture.with_suffix(".safetensors")), digest, strict=False):
                yield file, Claim(own, path, path)
    for named in content.values():
        if isinstance(named, dict) and isinstance(named.get("file"), str) and isinstance(named.get("sha256"), str):
            yield path.parent / named["file"], Claim(named["sha256"], path, path)


def find_own_fault(path: Path) -> str | None:
    """Fault of a file by its own checksum: an empty string if it matches, None if the file has none."""
    try:
        if path.suffix == ".json":
            return judge_json(path)
        return judge_tensors(path) if path.suffix == ".safetensors" else None
    except UserError as error:
        return f"{str(error).partition(';')[0]}; delete it and {say_how(path)}"


def judge_json(path: Path) -> str | None:
    """Apply `find_own_fault` to a JSON file. Raises UserError if it is damaged."""
    content = read_plain_json(path)
    if path.parts[-2:] == ("trajectories.zarr", "zarr.json"):
        holds = content == ROOT
    elif isinstance(content, dict) and (CHECKSUM in content or find_renamed(content)):
        holds = is_unchanged(content)
    else:
        return None
    if holds:
        return ""
    raise UserError(f"{path} is damaged or was changed: its checksum does not match")


def find_renamed(content: dict[str, Any]) -> str | None:
    """Key that was `checksum` before it was damaged: its value is the fingerprint of the others."""
    for key, value in content.items():
        if isinstance(value, str) and len(value) == 64:
            others = {other: content[other] for other in content if other != key}
            if value == plan.fingerprint(others):
                return key
    return None


def judge_tensors(path: Path) -> str | None:
    """Apply `find_own_fault` to a safetensors file. Raises UserError if it is damaged or differs from its digest."""
    metadata = read_metadata(path)
    if "about" not in metadata and "sha256" not in json.dumps(metadata):
        return None
    read_sealed_tensors(path)
    return ""


def find_fault(path: Path, claims: list[Claim]) -> str | None:
    """Fault of a file by the digests in `claims`, in the form of `find_own_fault`."""
    try:
        digest = hash_file(path) if claims else ""
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    # Records in the same folder first, because they were written together.
    for claim in sorted(claims, key=lambda claim: claim.record.parent != path.parent):
        if claim.sha256 != digest:
            gone = "both" if claim.target in (path, claim.record) else claim.target
            return f"{path} does not match {claim.record}; delete {gone} and {say_how(claim.target)}"
    return "" if claims else find_own_fault(path)


def say_how(target: Path) -> str:
    """How to remake a target."""
    return "run again" if target.name in UNMADE else f"make {target} again"
