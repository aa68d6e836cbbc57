"""Ways to put a NaN, an infinity or a huge value into each kind of file under valid digests.

A poison returns patterns of the words that the error message must contain.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from taqmlx.store.block_inputs import digest_values, open_input_shard
from taqmlx.store.conditioning import NAMES, write_conditioning
from taqmlx.store.files import hash_file, write_json
from taqmlx.store.seal import identify_work, make_seal, read_file_seal, read_group_seal, write_group_seal
from taqmlx.store.tensors import read_metadata, read_sealed_tensors, read_tensors, write_sealed_tensors, write_tensors
from taqmlx.store.zarr_arrays import write_chunks
from tools.faults.damage import amend, forge

# Nothing comes after the text of the last block, so the result of its queries is unused.
UNUSED = "multimodal_transformer_blocks.4.text_transformer_block.attn.q_proj.weight"
HUGE = 1e38  # a weight that is finite, and nothing after it


Poison = Callable[[Path, float, random.Random], list[str]]


def put(array: np.ndarray, value: float, rng: random.Random, kinds: str = "f") -> tuple[int, ...]:
    """Put the value at a place of `array` chosen by chance; which."""
    index = tuple(rng.randrange(size) for size in array.shape)
    array[index] = value
    return index


def choose_tensor(tensors: dict[str, np.ndarray], rng: random.Random, end: str = "") -> str:
    """The name of one of the floating-point arrays that end so."""
    return rng.choice(sorted(key for key, array in tensors.items() if array.dtype.kind == "f" and key.endswith(end)))


def poison_states(results: Path, value: float, rng: random.Random) -> list[str]:
    """A state of a trajectory."""
    shard = rng.choice(sorted(path for path in (results / "trajectories.zarr").iterdir() if path.is_dir()))
    detach(shard)
    parameters, row = read_group_seal(shard)["parameters"], 0
    step = rng.randrange(parameters["steps"])
    forge(shard, lambda group: group["xs"].__setitem__((row, step, 0, 0, rng.randrange(16)), value))
    number = parameters["rows"][row][0]
    return [f"{shard.name}: trajectory {number} ", rf"step {step}\b"]


def poison_conditioning(results: Path, value: float, rng: random.Random) -> list[str]:
    """The encoding of every prompt, so that whichever job runs reads one."""
    path = results / "conditioning.safetensors"
    seal, arrays = read_file_seal(path.with_suffix(".json")), read_tensors(path)
    name = rng.choice(NAMES)
    arrays[name][..., rng.randrange(arrays[name].shape[-1])] = value
    encodings = zip(*(arrays[name] for name in NAMES), strict=True)
    write_conditioning(path, seal["parameters"], seal["inputs"]["model"], encodings)
    # What is made from it is told by digests, and those of the seal have changed.
    return [re.escape(str(path)), rf"\b{name}\b"]


def poison_calibration(results: Path, value: float, rng: random.Random) -> list[str]:
    """A state in the calibration set, of every point, so that whichever is chosen has one."""
    path = results / "calibration.zarr"
    detach(path)
    opened = zarr.open_group(path, mode="r+")
    opened["xs"][..., 0] = value
    seal = read_group_seal(path)
    digests = seal["sha256"] | {"xs": hashlib.sha256(opened["xs"][...].tobytes()).hexdigest()}
    write_group_seal(path, make_seal(seal["parameters"], seal["inputs"], digests))
    return [r"calibration point \d+"]


def poison_rows(results: Path, value: float, rng: random.Random) -> list[str]:
    """A captured row of every block."""
    path = results / "block_inputs.zarr" / "00"
    detach(path)
    part = open_input_shard(path)
    digests = dict(part.seal["sha256"])
    spec = part.specs["image"]
    for block in range(spec.file_count[0]):
        values = next(part.iterate_chunks("image", block)).copy()
        put(values, value, rng)
        write_chunks(path, [(spec, (block, 0), values)])
        digests[spec.name_file((block, 0))] = digest_values(values)
    write_group_seal(path, make_seal(part.seal["parameters"], part.seal["inputs"], digests))
    return [re.escape(str(path / "image")), r"calibration point \d+"]


def poison_block(results: Path, value: float, rng: random.Random) -> list[str]:
    """A block's scales, biases, step sizes or shifts."""
    return poison_file(rng.choice(sorted((results / "adaround").glob("*.safetensors"))), value, rng)


def poison_file(path: Path, value: float, rng: random.Random) -> list[str]:
    """A number in a file of quantized layers, and its seal made to vouch for it."""
    tensors, metadata = read_tensors(path), read_metadata(path)
    name = choose_tensor(tensors, rng)
    put(tensors[name], value, rng)
    write_tensors(path, tensors, metadata)
    seal = read_file_seal(path.with_suffix(".json"))
    digests = seal["sha256"] | {path.name: hash_file(path)}
    write_json(path.with_suffix(".json"), make_seal(seal["parameters"], seal["inputs"], digests))
    return [re.escape(str(path)), re.escape(name)]


def poison_observations(results: Path, value: float, rng: random.Random) -> list[str]:
    """What a part of the statistics observed."""
    path = results / "activations" / "shards" / "00.safetensors"
    tensors = read_tensors(path)
    name = choose_tensor(tensors, rng)
    put(tensors[name], value, rng)
    write_tensors(path, tensors, read_metadata(path) or None)
    seal = read_file_seal(path.with_suffix(".json"))
    write_json(path.with_suffix(".json"), make_seal(seal["parameters"], seal["inputs"], {path.name: hash_file(path)}))
    return [re.escape(str(path)), re.escape(name)]


def poison_named(place: str) -> Poison:
    """The arrays beside a JSON file that has their digest as `arrays`."""

    def poison(results: Path, value: float, rng: random.Random) -> list[str]:
        path = rng.choice(sorted(results.glob(place)))
        arrays = path.with_suffix(".safetensors")
        tensors = read_tensors(arrays)
        name = choose_tensor(tensors, rng)
        put(tensors[name], value, rng)
        write_tensors(arrays, tensors)
        amend(path, lambda content: content["arrays"].update(sha256=hash_file(arrays)))
        return [re.escape(name.rpartition("/")[0]), re.escape(path.stem)]  # the layer, or what it reads

    return poison


def poison_packed(results: Path, value: float, rng: random.Random) -> list[str]:
    """The packed weights: a scale, or a weight that is not quantized; the quantization config with them."""
    path, config = results / "quantized" / "model.safetensors", results / "quantized" / "config.json"
    tensors = read_tensors(path)
    name = choose_tensor(tensors, rng)
    put(tensors[name], value, rng)
    write_tensors(path, tensors, read_metadata(path))
    amend(config, lambda content: content["model"].update(sha256=hash_file(path)))
    for file in results.glob("quant_config*.json"):
        amend(file, lambda content: content["weights"].update(sha256=hash_file(path)))
    return [re.escape(str(path)), re.escape(name)]


def poison_sealed(place: str) -> Poison:
    """A file that has its digest in itself; all that fit."""

    def poison(results: Path, value: float, rng: random.Random) -> list[str]:
        for path in sorted(results.glob(place)):
            arrays, about = read_sealed_tensors(path)
            name = choose_tensor(arrays, rng)
            put(arrays[name], value, rng)
            write_sealed_tensors(path, arrays, about)
        reseal_pictures(results)
        return [re.escape(str(results / place)).replace(r"\*", "[^/]+"), r"has values that are not finite"]

    return poison


def reseal_pictures(results: Path) -> None:
    """Let the pictures' seals vouch for the latents as they are, and the features for the seals."""
    for path in sorted((results / "evaluation" / "images").glob("*/*.json")):
        seal, folder = read_file_seal(path), path.with_suffix("")
        digests = {
            name: [hash_file((folder / name).with_suffix(end)) for end in (".png", ".safetensors")]
            for name in seal["sha256"]
        }
        changed = make_seal(seal["parameters"], seal["inputs"], digests)
        write_json(path, changed)
        features = results / "evaluation" / "features" / path.parent.name / f"{path.stem}.safetensors"
        arrays, about = read_unchecked(features)
        write_sealed_tensors(features, arrays, about | {"origin": identify_work(changed)})


def read_unchecked(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """`read_sealed_tensors`, whatever the values."""
    about = json.loads(read_metadata(path)["about"])
    return read_tensors(path), {key: value for key, value in about.items() if key != "sha256"}


def poison_weights(path: Path, value: float, rng: random.Random) -> list[str]:
    """A weight of one of the model's files."""
    tensors = read_tensors(path)
    name = choose_tensor(tensors, rng, ".weight")
    put(tensors[name], value, rng)
    write_tensors(path, tensors, read_metadata(path) or None)
    return [re.escape(path.name), re.escape(name)]


def poison_overflow(path: Path, value: float, rng: random.Random) -> list[str]:
    """A whole weight of the transformer, finite, but so large that nothing after it is."""
    tensors = read_tensors(path)
    names = [key for key in tensors if key.endswith(("fc1.weight", "q_proj.weight")) and key != UNUSED]
    name = rng.choice(sorted(names))
    tensors[name] = np.full(tensors[name].shape, HUGE, np.float32)
    write_tensors(path, tensors, read_metadata(path) or None)
    return [r"not finite|too large", r"step \d+|calibration point \d+"]


def poison_distilled(results: Path, value: float, rng: random.Random) -> list[str]:
    """The distilled model's scales, zero points, biases or step sizes."""
    return poison_file(results / "distilled.safetensors", value, rng)


def poison_distillation(results: Path, value: float, rng: random.Random) -> list[str]:
    """A rate of distillation that no scale survives."""
    amend(results / "params" / "distil.json", lambda content: content.update(distil_rate=1e38))
    return [r"distillation: iteration \d+", r"first in \w+"]


def poison_rate(results: Path, value: float, rng: random.Random) -> list[str]:
    """A learning rate that no weight survives."""
    for path in (results / "params" / "optimise_block").glob("*.json"):
        amend(path, lambda content: content.update(adaround_rate=1e38))
    return [r"mm_\d\d: iteration \d+", r"first in mm_\d\d\.\w+"]


def detach(folder: Path) -> None:
    """Make the files of a folder of hard links files of their own."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
