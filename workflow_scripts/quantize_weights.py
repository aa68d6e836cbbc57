"""Round the weights to the nearest levels of their grids and write a checkpoint MLX loads by itself."""

import argparse
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from workflow_scripts import plan
from workflow_scripts.entry import Progress, build_parser, log, run
from workflow_scripts.mmdit.layers import Layer, list_linears
from workflow_scripts.models.catalogue import find_model
from workflow_scripts.numerics import weight_grid
from workflow_scripts.numerics.layer_rules import UNQUANTIZED, find_rule
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import hash_file, read_json, write_json
from workflow_scripts.store.tensors import write_tensors

FORMAT = {"format": "mlx-affine-checkpoint", "version": 1}


def main(arguments: argparse.Namespace) -> None:
    parameters = read_json(arguments.params)
    model = find_model(parameters["model"])
    weights = dict(tree_flatten(model.load_transformer().parameters()))
    layers = list_linears(*plan.MODEL_BLOCKS[parameters["model"]])
    grids = choose_grids(layers, weights, parameters["weights"])
    tensors = pack_model(weights, grids)
    path = arguments.out_dir / "model.safetensors"
    write_tensors(path, tensors, {"format": "mlx"})
    config = describe_checkpoint(parameters["model"], grids, tensors, path)
    write_json(arguments.out_dir / "config.json", config | {"origin": model.file_digests()})
    size = config["model"]["bytes"] / 1e6
    log.info(f"{len(grids)} layers quantized, {config['bits_per_weight']:.2f} bits per weight, {size:.1f} MB in {path}")


def choose_grids(
    layers: list[Layer], weights: dict[str, mx.array], rules: list[dict[str, Any]]
) -> dict[str, weight_grid.Grid]:
    """The grid of every layer to quantize, by module path.

    Raises UserError naming all layers whose width is not a multiple of their group size.
    """
    chosen = {layer: find_rule(rules, layer.name) for layer in layers}
    chosen = {layer: rule for layer, rule in chosen.items() if rule["bits"] != UNQUANTIZED}
    unfit = [
        f"{layer.name} ({width} inputs, group size {rule['group_size']})"
        for layer, rule in chosen.items()
        if (width := weights[f"{layer.path}.weight"].shape[-1]) % rule["group_size"]
    ]
    if unfit:
        raise UserError(f"weights: no multiple of the group size: {', '.join(unfit)}; give them another, or 16 bits")
    return {
        layer.path: weight_grid.choose_grid(weights[f"{layer.path}.weight"], rule["bits"], rule["group_size"])
        for layer, rule in chosen.items()
    }


def pack_model(weights: dict[str, mx.array], grids: dict[str, weight_grid.Grid]) -> dict[str, np.ndarray]:
    """The checkpoint's tensors under DiffusionKit's names: packed codes, fp16 grids, all else as fp16."""
    tensors = {}
    progress = Progress("weights", len(weights), "tensors")
    for key, value in weights.items():
        path, _, leaf = key.rpartition(".")
        if leaf == "weight" and path in grids:
            tensors |= pack_layer(path, np.array(value.astype(mx.float32)), grids[path])
        else:
            tensors[key] = round_to_half(key, value)
        progress.advance()
    return tensors


def round_to_half(key: str, value: mx.array) -> np.ndarray:
    """`value` as fp16. Raises UserError naming the tensor `key` if that overflows."""
    half = np.array(value.astype(mx.float16))
    if not np.isfinite(half).all():
        raise UserError(f"{key} has values that fp16 cannot hold, or none at all; check the model's weights")
    return half


def pack_layer(path: str, weight: np.ndarray, grid: weight_grid.Grid) -> dict[str, np.ndarray]:
    """The tensors of MLX's QuantizedLinear, `weight` uint32, `scales` and `biases` fp16, rounded to nearest."""
    codes = weight_grid.round_to_grid(weight, grid)
    packed = weight_grid.pack_codes(codes, grid.bits)
    return {f"{path}.weight": packed, f"{path}.scales": grid.scales, f"{path}.biases": grid.biases}


def describe_checkpoint(
    model: str, grids: dict[str, weight_grid.Grid], tensors: dict[str, np.ndarray], path: Path
) -> dict[str, Any]:
    """What a reader needs: per module path its `nn.quantize` parameters; and sizes, measured on what was written.

    `bits_per_weight` counts the quantized layers' codes, scales and biases.
    """
    stored = sum(tensors[f"{place}.{part}"].nbytes for place in grids for part in ("weight", "scales", "biases"))
    count = sum(tensors[f"{place}.weight"].nbytes * 8 // grid.bits for place, grid in grids.items())
    layers = {p: {"bits": g.bits, "group_size": g.group_size, "mode": "affine"} for p, g in grids.items()}
    return FORMAT | {
        "architecture": model,
        "quantization": layers,
        "bits_per_weight": 8 * stored / count if count else float(UNQUANTIZED),
        "quantized_weights": count,
        "model": {"file": path.name, "sha256": hash_file(path), "bytes": path.stat().st_size},
    }


if __name__ == "__main__":
    parser = build_parser(__doc__, "params")
    parser.add_argument("--out-dir", type=Path, required=True, help="the folder of model.safetensors and config.json")
    run(main, parser)
