"""Checks of packed weights: shapes, values, digests, and the blocks' seals."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from taqmlx.checks.packed_products import PackedLinear, find_wrong_products
from taqmlx.numerics.weight_grid import unpack_codes
from taqmlx.planning import plan
from taqmlx.planning.bit_choices import stored_bits
from taqmlx.planning.checkpoint_documents import Affine
from taqmlx.store.block_file import digest_codes
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file
from taqmlx.store.packed_checkpoint import PackedCheckpoint, find_misfits, measure_tensors
from taqmlx.store.seal import read_file_seal

MODELS = {model: plan.list_layers(model) for model in plan.MODEL_BLOCKS}
Quantization = dict[str, Affine]  # path: bits, group size and mode

Measure = Literal["bits_per_weight", "quantized_weights", "parameters"]
MEASURED: tuple[Measure, ...] = ("bits_per_weight", "quantized_weights", "parameters")


def find_problems(checkpoint: PackedCheckpoint, blocks: Path | None) -> tuple[Quantization, list[str]]:
    """Return the layers with consistent tensors, and all faults; `blocks` is the folder of the block files."""
    config = checkpoint.config
    faults = {path: list(find_misfits(checkpoint, path)) for path in config["quantization"]}
    intact = {path: how for path, how in config["quantization"].items() if not faults[path]}
    problems = [f"{path}: {fault}" for path, found in faults.items() for fault in found]
    problems += [*check_layers(checkpoint), *check_numbers(checkpoint.tensors), *check_file(checkpoint)]
    problems += check_digests(checkpoint, intact)
    if intact == config["quantization"]:
        problems += check_measures(checkpoint)
    if blocks:
        problems += check_seals(checkpoint, blocks)
    return intact, problems or list(find_wrong_products(list_packed_linears(checkpoint)))


def list_packed_linears(checkpoint: PackedCheckpoint) -> dict[str, PackedLinear]:
    """The quantized layers by path."""
    tensors = checkpoint.tensors
    return {
        path: PackedLinear(
            tensors[f"{path}.weight"],
            tensors[f"{path}.scales"],
            tensors[f"{path}.biases"],
            how["bits"],
            how["group_size"],
        )
        for path, how in checkpoint.config["quantization"].items()
    }


def check_layers(checkpoint: PackedCheckpoint) -> Iterator[str]:
    """Yield missing layers of the model, and quantized layers that the config does not list."""
    config, tensors = checkpoint.config, checkpoint.tensors
    if config["architecture"] not in MODELS:
        yield f"the architecture {config['architecture']} is not known, so its layers cannot be checked"
    for layer in MODELS.get(config["architecture"], []):
        if f"{layer.path}.weight" not in tensors:
            yield f"{layer.name}: {checkpoint.path.name} has no {layer.path}.weight"
    for key in tensors:
        path, _, part = key.rpartition(".")
        if part in ("scales", "biases", "migration") and path not in config["quantization"]:
            yield f"{key} is there, but config.json has no such quantized layer"


def check_digests(checkpoint: PackedCheckpoint, intact: Quantization) -> Iterator[str]:
    """Yield `intact` layers whose codes differ from the config's digests or exceed their nominal bit width."""
    config = checkpoint.config
    for path in sorted(config["codes"].keys() ^ config["quantization"].keys()):
        yield f"{path}: config.json has only one of its bits and its codes"
    for path, how in intact.items():
        weight = checkpoint.tensors[f"{path}.weight"]
        if digest_codes(weight) != config["codes"].get(path):
            yield f"{path}: the codes do not match config.json"
        nominal = checkpoint.find_bits(path)
        if stored_bits(nominal) != how["bits"] or unpack_codes(weight, nominal).max() >= 2**nominal:
            yield f"{path}: not {nominal} bits stored as {how['bits']}"


def check_measures(checkpoint: PackedCheckpoint) -> Iterator[str]:
    """Yield values in the config that differ from those measured in the file."""
    measured = measure_tensors(checkpoint.tensors, checkpoint.config["quantization"])
    for key in MEASURED:
        if checkpoint.config[key] != measured[key]:
            yield f"{key}: config.json says {checkpoint.config[key]}, the file has {measured[key]}"


def check_file(checkpoint: PackedCheckpoint) -> Iterator[str]:
    """Yield differences in size and digest between the file and its config entry."""
    named, path = checkpoint.config["model"], checkpoint.path
    if path.stat().st_size != named["bytes"]:
        yield f"{path.name} has {path.stat().st_size} bytes, not the {named['bytes']} config.json names"
    if hash_file(path) != named["sha256"]:
        yield f"{path.name} does not have the sha256 in config.json"


def check_numbers(tensors: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield arrays with values that are not finite, and scales of zero."""
    for key, array in tensors.items():
        if np.issubdtype(array.dtype, np.floating) and (count := int((~np.isfinite(array)).sum())):
            yield f"{key}: {count} of {array.size} values are NaN or infinite"
        if key.endswith(".scales") and (count := int((array == 0).sum())):
            yield f"{key}: {count} of {array.size} scales are zero"


def check_seals(checkpoint: PackedCheckpoint, folder: Path) -> Iterator[str]:
    """Yield differences between the checkpoint and the blocks in `folder`, or the distilled model beside it."""
    config, sealed = checkpoint.config, dict[str, str]()
    paths = {layer.name: layer.path for layer in MODELS.get(config["architecture"], [])}
    for block, fingerprint in config["origin"]["blocks"].items():
        path = folder.with_name(f"{block}.json") if block == plan.WHOLE else folder / f"{block}.json"
        try:
            seal = read_file_seal(path)
        except UserError as error:
            yield str(error)
            continue
        if seal["fingerprint"] != fingerprint:
            yield f"{block}: packed from other results than those sealed in {path}"
        sealed |= {paths.get(name, name): digest for name, digest in seal["sha256"]["codes"].items()}
    for layer in sorted((config["codes"].keys() | sealed.keys()) - set(config["rounded"])):
        if config["codes"].get(layer) != sealed.get(layer):
            yield f"{layer}: its codes differ from those sealed with its block"
