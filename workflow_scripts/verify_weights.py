"""Say what a folder of packed weights truly holds, and check it: shapes, numbers, digests, and the blocks' seals."""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workflow_scripts import plan
from workflow_scripts.entry import build_parser, log, run
from workflow_scripts.mmdit.layers import list_linears
from workflow_scripts.numerics.bit_choices import stored_bits
from workflow_scripts.numerics.weight_grid import unpack_codes
from workflow_scripts.store.block_file import digest_codes
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import hash_file
from workflow_scripts.store.packed_checkpoint import (
    PackedCheckpoint,
    find_misfits,
    measure_tensors,
    open_packed,
    read_packed_tensors,
)
from workflow_scripts.store.seal import read_file_seal

MODELS = {model: list_linears(*depths) for model, depths in plan.MODEL_BLOCKS.items()}
ROLES = {layer.path: layer.role for layers in MODELS.values() for layer in layers}
NAMES = {layer.path: layer.name for layers in MODELS.values() for layer in layers}
Quantization = dict[str, dict[str, Any]]  # by path, bits, group size and mode

MEASURED = ("bits_per_weight", "quantized_weights", "parameters")


def main(arguments: argparse.Namespace) -> None:
    folder = arguments.folder
    try:
        checkpoint = open_packed(folder)
    except UserError as error:
        report_unnamed(folder)
        raise UserError(f"{error}; above is what the shapes tell") from None
    intact, problems = find_problems(checkpoint, arguments.blocks)
    print(format_report(checkpoint, intact))
    for problem in problems:
        log.error(f"does not hold: {problem}")
    if problems:
        raise UserError(f"{folder}: {len(problems)} thing{'s do' if problems[1:] else ' does'} not hold, listed above")
    log.info(f"{folder}: everything holds" + (", and the codes are the blocks'" if arguments.blocks else ""))


def find_problems(checkpoint: PackedCheckpoint, blocks: Path | None) -> tuple[Quantization, list[str]]:
    """The layers whose tensors fit together, and all that does not hold; `blocks` is the folder of the block files."""
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
    return intact, problems


def check_layers(checkpoint: PackedCheckpoint) -> Iterator[str]:
    """Layers of the model that are missing, and quantized ones that the config does not name."""
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
    """Codes of the `intact` layers that are not those the config names, or beyond their nominal width."""
    config = checkpoint.config
    for path in sorted(config["codes"].keys() ^ config["quantization"].keys()):
        yield f"{path}: config.json has only one of its bits and its codes"
    for path, how in intact.items():
        weight = checkpoint.tensors[f"{path}.weight"]
        if digest_codes(weight) != config["codes"].get(path):
            yield f"{path}: the codes are not those config.json names"
        nominal = config["nominal_bits"].get(path, how["bits"])
        if stored_bits(nominal) != how["bits"] or unpack_codes(weight, nominal).max() >= 2**nominal:
            yield f"{path}: not {nominal} bits stored as {how['bits']}"


def check_measures(checkpoint: PackedCheckpoint) -> Iterator[str]:
    """Numbers of the config that are not what the file measures."""
    measured = measure_tensors(checkpoint.tensors, checkpoint.config["quantization"])
    for key in MEASURED:
        if checkpoint.config[key] != measured[key]:
            yield f"{key}: config.json says {checkpoint.config[key]}, the file has {measured[key]}"


def check_file(checkpoint: PackedCheckpoint) -> Iterator[str]:
    """Whether the file is the one the config names."""
    named, path = checkpoint.config["model"], checkpoint.path
    if path.stat().st_size != named["bytes"]:
        yield f"{path.name} has {path.stat().st_size} bytes, not the {named['bytes']} config.json names"
    if hash_file(path) != named["sha256"]:
        yield f"{path.name} does not have the sha256 config.json names"


def check_numbers(tensors: dict[str, np.ndarray]) -> Iterator[str]:
    """Values that are no numbers, and scales of zero."""
    for key, array in tensors.items():
        if np.issubdtype(array.dtype, np.floating) and (count := int((~np.isfinite(array)).sum())):
            yield f"{key}: {count} of {array.size} values are NaN or infinite"
        if key.endswith(".scales") and (count := int((array == 0).sum())):
            yield f"{key}: {count} of {array.size} scales are zero"


def check_seals(checkpoint: PackedCheckpoint, folder: Path) -> Iterator[str]:
    """Where the checkpoint is not made of the blocks in `folder`, or of the distilled model beside it."""
    config, sealed = checkpoint.config, {}
    paths = {layer.name: layer.path for layer in MODELS.get(config["architecture"], [])}
    for block, fingerprint in config["origin"]["blocks"].items():
        path = folder.with_name(f"{block}.json") if block == plan.WHOLE else folder / f"{block}.json"
        try:
            seal = read_file_seal(path)
        except UserError as error:
            yield str(error)
            continue
        if seal["fingerprint"] != fingerprint:
            yield f"{block}: packed from other work than what {path} seals"
        sealed |= {paths.get(name, name): digest for name, digest in seal["sha256"]["codes"].items()}
    for path in sorted((config["codes"].keys() | sealed.keys()) - set(config["rounded"])):
        if config["codes"].get(path) != sealed.get(path):
            yield f"{path}: its codes are not those its block is sealed with"


def format_report(checkpoint: PackedCheckpoint, intact: Quantization) -> str:
    """A Markdown table of the `intact` layers, a row for each width and group size, and what the file weighs."""
    config, tensors = checkpoint.config, checkpoint.tensors
    rows = defaultdict(dict)
    for path, how in intact.items():
        rows[config["nominal_bits"].get(path, how["bits"]), how["bits"], how["group_size"]][path] = how
    lines = ["| bits | stored as | group | layers | weights | bits per weight | kB | roles |", "|---:" * 7 + "|---|"]
    for (nominal, stored, group_size), layers in sorted(rows.items()):
        size = measure_tensors(tensors, layers)
        count, bits = size["quantized_weights"], size["bits_per_weight"]
        lines.append(
            f"| {nominal} | {stored} | {group_size} | {len(layers)} | {count:,} | {bits:.3f} |"
            f" {count * bits / 8e3:,.1f} | {count_roles(layers)} |"
        )
    plain = {path: tensors[f"{path}.weight"] for path in ROLES if f"{path}.weight" in tensors and path not in intact}
    plain = {path: weight for path, weight in plain.items() if weight.dtype == np.float16}
    count = sum(weight.size for weight in plain.values())
    lines += [
        f"| 16 | 16 | | {len(plain)} | {count:,} | 16 | {count / 500:,.1f} | {count_roles(plain)} |",
        "",
        "Of all parameters, as stored: " + format_shares(config["parameters"]) + ".",
        f"{config['bits_per_weight']:.3f} bits per quantized weight. Layers rounded to nearest by the packing:"
        f" {len(config['rounded'])}; migrated: {len(config['migrated'])}. {checkpoint.path.stat().st_size:,} bytes.",
    ]
    if config["rounded"]:
        lines.append(f"Never learned by a block: {', '.join(NAMES.get(path, path) for path in config['rounded'])}.")
    return "\n".join(lines)


def format_shares(shares: dict[str, float]) -> str:
    """`62.5 % in 4 bits, ...`, narrow ones first."""
    return ", ".join(f"{100 * shares[bits]:.1f} % in {bits} bits" for bits in sorted(shares, key=int))


def count_roles(paths: Iterable[str]) -> str:
    """`qkv 30, o 9, ...`"""
    return ", ".join(f"{role} {count}" for role, count in Counter(ROLES.get(path, "other") for path in paths).items())


def report_unnamed(folder: Path) -> None:
    """Print what the shapes alone tell: which layers are quantized, and the widths their shapes allow."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} has no safetensors file; name the folder of packed weights")
    for file in files:
        found = Counter()
        tensors = read_packed_tensors(file, "")
        for key in tensors:
            path, _, part = key.rpartition(".")
            if part == "scales" and f"{path}.weight" in tensors:
                found[guess_widths(tensors[f"{path}.weight"], tensors[key])] += 1
        layers = "; ".join(f"{count} layers of {widths}" for widths, count in found.items())
        print(f"{file}: {len(tensors)} tensors, {layers or 'none of them quantized'}")
        for fault in check_numbers(tensors):
            log.error(f"does not hold: {fault}")


def guess_widths(weight: np.ndarray, scales: np.ndarray) -> str:
    """The bits and group sizes that these shapes allow: their product is all that shows."""
    product = 32 * weight.shape[-1] / scales.shape[-1]
    allowed = [
        f"{bits} bits in groups of {size}" for size in (32, 64, 128) for bits in range(2, 9) if bits * size == product
    ]
    return " or ".join(allowed) or "a width MLX does not have"


if __name__ == "__main__":
    parser = build_parser(__doc__)
    parser.add_argument("folder", type=Path, help="the folder of model.safetensors and config.json")
    parser.add_argument(
        "--blocks",
        type=Path,
        help="the folder of the blocks' files, whose seals, or that beside it, have to agree",
    )
    run(main, parser)
