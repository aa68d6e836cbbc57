"""Seals: proof that a result is complete, and of its parameters and inputs.

A seal is a small dictionary written last: `format`, `parameters`, `inputs` (digests of the inputs), `fingerprint` of
those two, `sha256` (digests of the sealed data), `fp32_products` (how they were computed) and its own `checksum`. It
contains no time and no host name, so equal work has equal seals. A Zarr group stores it as the attribute `seal`, a file
as a JSON file beside it. Seals of earlier versions have no `fp32_products`.
"""

from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from taqmlx.planning import plan
from taqmlx.planning.documents import Digests, Inputs
from taqmlx.store.errors import UserError
from taqmlx.store.files import CHECKSUM, hash_file, is_unchanged, read_plain_json, write_json, write_plain_json
from taqmlx.store.locations import Location
from taqmlx.store.products import name_products

FORMAT = 1
PRODUCTS = "fp32_products"
GROUP = {"zarr_format": 3, "node_type": "group"}  # metadata of any Zarr group


class Seal(TypedDict):
    """Keys of a seal."""

    format: int
    parameters: plan.Parameters
    inputs: Inputs
    fingerprint: str
    sha256: Digests
    fp32_products: NotRequired[str]
    checksum: str


def make_seal(parameters: plan.Parameters, inputs: Inputs, digests: Digests) -> Seal:
    """Make the seal of work done with `parameters` on `inputs`, covering `digests` (names to sha256, may be nested)."""
    seal = {
        "format": FORMAT,
        "parameters": parameters,
        "inputs": inputs,
        "fingerprint": fingerprint_origin(parameters, inputs),
        "sha256": digests,
        PRODUCTS: name_products(),
    }
    return cast(Seal, seal | {CHECKSUM: plan.fingerprint(seal)})


def identify_work(seal: Seal) -> str:
    """Digest of parameters, inputs and sealed data, by which other results name this one; sha256 (hex).

    It leaves out how products were computed, so seals with and without that entry stand for the same work. That of an
    earlier version's seal is its checksum.
    """
    return plan.fingerprint({key: value for key, value in seal.items() if key not in (PRODUCTS, CHECKSUM)})


def fingerprint_origin(parameters: plan.Parameters, inputs: Inputs) -> str:
    """Identity of a piece of work: sha256 (hex) of its parameters and inputs."""
    return plan.fingerprint({"parameters": parameters, "inputs": inputs})


def check_seal(seal: Any, place: Location) -> Seal:
    """Return `seal`, found at `place`, if it is valid. Raises UserError otherwise."""
    if not isinstance(seal, dict) or CHECKSUM not in seal:
        raise UserError(f"{place} has no seal: it was not finished; delete it and run again")
    if not is_unchanged(seal):
        raise UserError(f"{place} has a damaged seal; delete it and run again")
    if seal.get("format") != FORMAT:
        found = plan.shorten(seal.get("format"))
        raise UserError(f"{place} has a seal of format {found}, not {FORMAT}; delete it and run again")
    parameters, inputs = seal.get("parameters"), seal.get("inputs")
    if not (
        isinstance(parameters, dict)
        and isinstance(inputs, dict)
        and isinstance(seal.get("sha256"), dict)
        and seal.get("fingerprint") == fingerprint_origin(parameters, inputs)
    ):
        raise UserError(f"{place} has an inconsistent seal; delete it and run again")
    return cast(Seal, seal)


def check_origin(seal: Seal, place: Location, parameters: plan.Parameters, inputs: Inputs) -> None:
    """Raise UserError, naming a difference, unless `seal` was made with `parameters` and `inputs`.

    Only the given keys are compared, so a reader may check the subset it knows.
    """
    for kind, made, wanted in (("parameters", seal["parameters"], parameters), ("inputs", seal["inputs"], inputs)):
        found = {key: made.get(key) for key in wanted}
        if difference := plan.describe_difference(found, wanted):
            raise UserError(
                f"{place} was made with other {kind} ({difference});"
                " choose another results_dir, or delete it to make it again"
            )


def read_group_seal(group: Location) -> Seal:
    """Read and check the seal of a Zarr group. Raises UserError if the group or its seal is absent or damaged."""
    metadata = read_plain_json(group / "zarr.json", whole=group)
    attributes = metadata.get("attributes") if isinstance(metadata, dict) else None
    if not isinstance(attributes, dict) or metadata | GROUP != metadata:
        raise UserError(f"{group / 'zarr.json'} is damaged; delete {group} and run again")
    return check_seal(attributes.get("seal"), group)


def read_file_seal(path: Path) -> Seal:
    """Read and check the seal in a JSON file. Raises UserError if it is absent or damaged."""
    return check_seal(read_plain_json(path), path)


def holds_group(path: Location, parameters: plan.Parameters, inputs: Inputs) -> bool:
    """True if `path` holds a group sealed with these parameters and inputs.

    Raises UserError if it holds anything else: finished work is never overwritten. At a URL, objects without a seal are
    an interrupted upload, which is resumed.
    """
    if (path / "zarr.json").is_file():
        check_origin(read_group_seal(path), path, parameters, inputs)
        return True
    if isinstance(path, Path) and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} is in the way: it holds no finished work; delete it and run again")
    return False


def write_file_seal(path: Path, parameters: plan.Parameters, inputs: Inputs, **digests: Any) -> Seal:
    """Seal the file `path`, and further `digests`, in the JSON file of the same name beside it."""
    seal = make_seal(parameters, inputs, {path.name: hash_file(path)} | digests)
    write_json(path.with_suffix(".json"), seal)
    return seal


def write_group_seal(group: Path, seal: Seal) -> None:
    """Store `seal` as an attribute of the Zarr group in folder `group`."""
    path = group / "zarr.json"
    metadata = read_plain_json(path)
    metadata["attributes"] = metadata.get("attributes", {}) | {"seal": seal}
    write_plain_json(path, metadata)
