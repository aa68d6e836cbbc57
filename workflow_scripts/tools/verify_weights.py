"""Describe and verify a folder of packed weights: shapes, values, digests, the seals of the blocks, and MLX's products.

Or a folder in the layout of mflux: every tensor that mflux looks for is there, of its shape, and no other.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from taqmlx.checks.mflux import find_faults, open_transformer
from taqmlx.checks.packed import MODELS, Quantization, check_numbers, find_problems
from taqmlx.planning.mflux_layout import TRANSFORMER
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.packed_checkpoint import PackedCheckpoint, measure_tensors, open_packed, read_packed_tensors

ROLES = {layer.path: layer.role for layers in MODELS.values() for layer in layers}
NAMES = {layer.path: layer.name for layers in MODELS.values() for layer in layers}


def main(arguments: argparse.Namespace) -> None:
    folder = arguments.folder
    if (folder / TRANSFORMER).is_dir():
        verify_mflux(folder / TRANSFORMER)
        return
    try:
        checkpoint = open_packed(folder)
    except UserError as error:
        report_unnamed(folder)
        raise UserError(f"{error}; the shapes are described above") from None
    intact, problems = find_problems(checkpoint, arguments.blocks)
    print(format_report(checkpoint, intact))
    reject_problems(folder, problems)
    log.info(f"{folder}: all checks pass" + (", and all codes match the blocks" if arguments.blocks else ""))


def verify_mflux(folder: Path) -> None:
    """Verify the folder `transformer` of mflux. Raises UserError, after listing them, if there are faults."""
    saved = open_transformer(folder)
    reject_problems(folder, find_faults(saved))
    log.info(f"{folder}: all checks pass: {len(saved.files)} tensors, those that mflux looks for")


def reject_problems(folder: Path, problems: list[str]) -> None:
    """List `problems` of a folder, and raise UserError if there are any."""
    for problem in problems:
        log.error(f"fault: {problem}")
    if problems:
        raise UserError(f"{folder} has {len(problems)} fault{'s' * (len(problems) > 1)}, listed above")


def format_report(checkpoint: PackedCheckpoint, intact: Quantization) -> str:
    """A Markdown table of the `intact` layers, one row per bit width and group size, and the file's size."""
    config, tensors = checkpoint.config, checkpoint.tensors
    rows: dict[tuple[int, int, int], Quantization] = defaultdict(dict)
    for path, how in intact.items():
        rows[checkpoint.find_bits(path), how["bits"], how["group_size"]][path] = how
    lines = ["| bits | stored as | group | layers | weights | bits per weight | kB | roles |", "|---:" * 7 + "|---|"]
    for (nominal, stored, group_size), layers in sorted(rows.items()):
        size = measure_tensors(tensors, layers)
        count, bits = size["quantized_weights"], size["bits_per_weight"]
        lines.append(
            f"| {nominal} | {stored} | {group_size} | {len(layers)} | {count:,} | {bits:.3f} |"
            f" {count * bits / 8e3:,.1f} | {count_roles(layers)} |"
        )
    plain = {path: tensors[f"{path}.weight"] for path in ROLES if f"{path}.weight" in tensors and path not in intact}
    plain = {path: weight for path, weight in plain.items() if np.issubdtype(weight.dtype, np.floating)}
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
    """Shares such as `62.5 % in 4 bits, ...`, narrowest first."""
    return ", ".join(f"{100 * shares[bits]:.1f} % in {bits} bits" for bits in sorted(shares, key=int))


def count_roles(paths: Iterable[str]) -> str:
    """Layer counts by role, such as `qkv 30, o 9, ...`"""
    return ", ".join(f"{role} {count}" for role, count in Counter(ROLES.get(path, "other") for path in paths).items())


def report_unnamed(folder: Path) -> None:
    """Print what the tensor shapes show without a config: the quantized layers and their possible bit widths.

    Raises UserError if the folder has no safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} has no safetensors file; name the folder of packed weights")
    for file in files:
        found: Counter[object] = Counter()
        tensors = read_packed_tensors(file, "")
        for key in tensors:
            path, _, part = key.rpartition(".")
            if part == "scales" and f"{path}.weight" in tensors:
                found[guess_widths(tensors[f"{path}.weight"], tensors[key])] += 1
        layers = "; ".join(f"{count} layers of {widths}" for widths, count in found.items())
        print(f"{file}: {len(tensors)} tensors, {layers or 'none of them quantized'}")
        for fault in check_numbers(tensors):
            log.error(f"fault: {fault}")


def guess_widths(weight: np.ndarray, scales: np.ndarray) -> str:
    """The bits and group sizes consistent with these shapes, which determine only their product."""
    product = 32 * weight.shape[-1] / scales.shape[-1]
    allowed = [
        f"{bits} bits in groups of {size}" for size in (32, 64, 128) for bits in range(2, 9) if bits * size == product
    ]
    return " or ".join(allowed) or "a width MLX does not have"


if __name__ == "__main__":
    parser = build_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder with model.safetensors and config.json, or of mflux")
    parser.add_argument(
        "--blocks",
        type=Path,
        help="folder of block files; their seals, or the one beside the folder, must match",
    )
    run(main, parser)
