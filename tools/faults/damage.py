"""Ways to damage files, and to forge seals so that only the sealed content reveals the change."""

import json
from collections.abc import Callable
from pathlib import Path

import zarr

from taqmlx.store.files import read_json, write_json
from taqmlx.store.seal import make_seal, read_group_seal, write_group_seal
from taqmlx.store.trajectories import begin_digest, digest_arrays


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 8
    path.write_bytes(content)


def swap(first, second):
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def amend(path, change):
    """`edit`, and the checksum as if it had been so from the start."""
    value = read_json(path)
    change(value)
    write_json(path, value)


def reseal(group, **changes):
    """A whole seal of other parameters."""

    def change(value):
        seal = value["attributes"]["seal"]
        parameters = seal["parameters"] | changes
        value["attributes"]["seal"] = make_seal(parameters, seal["inputs"], seal["sha256"])

    edit(group / "zarr.json", change)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def forge(group: Path, change: Callable[[zarr.Group], None], **parameters) -> None:
    """Change the arrays of a shard, and seal them as if they were right, with changed parameters if need be."""
    opened = zarr.open_group(group, mode="r+")
    change(opened)
    seal = read_group_seal(group)
    arrays = {name: array[...] for name, array in opened.arrays()}
    trajectories = {}
    for row, (number, prompt) in enumerate(seal["parameters"]["rows"]):
        digest = begin_digest(number, prompt)
        digest.update(arrays["xs"][row].tobytes())
        digest.update(arrays["latents"][row].tobytes())
        trajectories[str(number)] = digest.hexdigest()
    digests = {
        "arrays": digest_arrays({name: arrays[name] for name in seal["sha256"]["arrays"]}),
        "trajectories": trajectories,
    }
    write_group_seal(group, make_seal(seal["parameters"] | parameters, seal["inputs"], digests))
