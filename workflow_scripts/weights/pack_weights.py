"""Pack the codes of the distilled model, or of all blocks, into a checkpoint that plain MLX can load."""

import argparse
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from taqmlx.mmdit.packing import PackedLayer, collect_tensors, describe_checkpoint, fits_rule, pack_layer
from taqmlx.models.catalogue import find_model
from taqmlx.numerics import weight_grid
from taqmlx.planning import plan
from taqmlx.planning.documents import Inputs, MixedBits
from taqmlx.planning.layer_rules import (
    FLOAT16,
    UNQUANTIZED,
    WeightPattern,
    WeightRule,
    find_shared_dtype,
    find_weight_rule,
)
from taqmlx.planning.layers import Layer
from taqmlx.planning.stages import PackWeights
from taqmlx.runtime.entry import Progress, add_folds, build_parser, log, run
from taqmlx.store.block_file import read_block
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.mixed_bits import read_mixed_bits
from taqmlx.store.packed_checkpoint import FORMAT, VERSION, write_packed_tensors
from taqmlx.store.parameters import read_parameters
from taqmlx.store.seal import Seal, check_origin, read_file_seal

# Layout of DiffusionKit's 4-bit checkpoints: the loaders call nn.quantize with its defaults on every Linear.
# `load_mmdit` strips the prefix; `load_flux` takes the names as they are.
UNIFORM_PREFIX, FLUX_PREFIX = "model.diffusion_model.", ""
UNIFORM_CURE = "--uniform-g64 writes learned codes of 4 bits in groups of 64: use the results of config/uniform.yaml"
CURE = "name the mixed_bits.json that the blocks were made with, or make them again"
UNIFORM_RULES: Sequence[WeightPattern] = [
    {"layers": "*", "bits": 4, "group_size": 64, "symmetric": False, "range": "absmax"}
]


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(PackWeights, arguments.params)
    model = find_model(parameters.model, parameters, folds=arguments.folds)
    layers = plan.list_layers(parameters.model)
    origin = {"model": model.file_digests()}
    blocks, seals = check_blocks(arguments.blocks, parameters, layers, origin)
    weights = dict(tree_flatten(model.load_transformer().parameters()))
    prefix = choose_prefix(parameters.model) if arguments.uniform_g64 else ""
    rules = UNIFORM_RULES if arguments.uniform_g64 else parameters.weights
    mixed = read_mixed_bits(arguments.mixed) if arguments.mixed and not arguments.uniform_g64 else None
    chosen = {layer.name: choose_rule(rules, mixed, layer.name) for layer in layers}
    packed = pack_layers(layers, weights, blocks, chosen, UNIFORM_CURE if arguments.uniform_g64 else CURE)
    if arguments.uniform_g64:
        reject_migrated(layers, packed)
    path = arguments.out_dir / "model.safetensors"
    scale_dtype = find_shared_dtype([find_weight_rule(parameters.weights, layer.name) for layer in layers])
    tensors = {f"{prefix}{key}": value for key, value in collect_tensors(weights, packed, scale_dtype).items()}
    write_packed_tensors(path, tensors, scale_dtype)
    config = {"format": FORMAT, "version": VERSION, "architecture": parameters.model, "prefix": prefix}
    config |= {} if scale_dtype == FLOAT16 else {"scale_dtype": scale_dtype}
    config |= describe_checkpoint(path, prefix, packed)
    config["origin"] = origin | {"blocks": {block: seal["fingerprint"] for block, seal in seals.items()}}
    write_json(arguments.out_dir / "config.json", config)
    size = f"{config['bits_per_weight']:.2f} bits per weight, {config['model']['bytes'] / 1e6:.1f} MB"
    log.info(f"{len(packed)} layers quantized; {size} in {path}")


def choose_prefix(model: str) -> str:
    """Prefix of the tensor names in DiffusionKit's 4-bit checkpoint of `model`."""
    return FLUX_PREFIX if model == "flux-schnell" else UNIFORM_PREFIX


def check_blocks(
    paths: list[Path], parameters: PackWeights, layers: list[Layer], origin: Inputs
) -> tuple[dict[str, Path], dict[str, Seal]]:
    """File and seal by unit: every block and the layers outside the blocks, or the distilled model alone.

    Raises UserError, naming file and difference, unless each unit occurs once, made from this model with these rules.
    """
    found: dict[str, Path] = {}
    seals: dict[str, Seal] = {}
    for path in paths:
        seal = read_file_seal(path.with_suffix(".json"))
        block = str(seal["parameters"].get("block"))
        check_origin(seal, path, {"stage": plan.name_stage(block), "model": parameters.model}, origin)
        if block in found:
            raise UserError(f"{path} and {found[block]} are both the block {block}; name one of them")
        check_layers(path, seal, find_block_rules(parameters.weights, layers, block))
        found[block], seals[block] = path, seal
    if plan.WHOLE in found and len(found) > 1:
        raise UserError(f"blocks: {found[plan.WHOLE]} has all layers; name it alone")
    wanted = [] if plan.WHOLE in found else plan.list_units(parameters.model)
    if missing := [block for block in wanted if block not in found]:
        raise UserError(f"blocks: no file of {', '.join(missing)} is named; run its rule and name it")
    return found, seals


def find_block_rules(rules: Sequence[WeightPattern], layers: list[Layer], block: str) -> dict[str, WeightRule]:
    """Weight rules, by name, of the quantized layers of a block, outside the blocks (`shared`), or of all."""
    own = [layer.name for layer in layers if block in (plan.WHOLE, layer.block or plan.SHARED)]
    found = {name: find_weight_rule(rules, name) for name in own}
    return {name: rule for name, rule in found.items() if rule["bits"] != UNQUANTIZED}


def check_layers(path: Path, seal: Seal, wanted: dict[str, WeightRule]) -> None:
    """Raise UserError unless the sealed file holds exactly the layers `wanted`, made with these rules."""
    again = f"delete it and run {seal['parameters']['stage']} again"
    if wrong := set(wanted) ^ set(seal["sha256"]["codes"]):
        name = min(wrong)
        state = "lacks" if name in wanted else "has, against the rules,"
        raise UserError(f"{path} {state} the layer {name} ({len(wrong)} such layers); {again}")
    for name, rule in wanted.items():
        if difference := plan.describe_difference(seal["parameters"]["layers"][name]["weight"], rule):
            raise UserError(f"{path} was made with other rules: {name}: {difference}; {again}")


def pack_layers(
    layers: list[Layer],
    weights: dict[str, mx.array],
    blocks: dict[str, Path],
    rules: dict[str, WeightRule],
    cure: str,
) -> dict[str, PackedLayer]:
    """The layers quantized by their rule, by module path; one file of `blocks` is in memory at a time.

    Packed weights are removed from `weights`, and learned biases replace the model's. Raises UserError, ending in
    `cure`, if the codes of a layer do not have its rule's bits and group size.
    """
    check_widths(layers, weights, rules)
    packed: dict[str, PackedLayer] = {}
    unfit = []
    progress = Progress("weights", len(layers), "layers")
    for path, members in groupby(layers, lambda layer: blocks.get(plan.WHOLE) or blocks[layer.block or plan.SHARED]):
        block = read_block(path)
        for layer in members:
            if layer.name in block.biases:
                weights[f"{layer.path}.bias"] = mx.array(block.biases[layer.name])
            rule = rules[layer.name]
            if rule["bits"] != UNQUANTIZED:
                del weights[f"{layer.path}.weight"]
                weight = block.weights.get(layer.name)
                if weight is not None and fits_rule(weight.grid, rule):
                    packed[layer.path] = pack_layer(weight, block.inputs.get(layer.name))
                else:
                    unfit.append(layer.name)
            progress.advance()
    if unfit:
        raise UserError(
            f"{len(unfit)} of {len(packed) + len(unfit)} layers have no codes of the bits and the group size that are"
            f" asked for, {unfit[0]} among them; {cure}"
        )
    return packed


def choose_rule(rules: Sequence[WeightPattern], mixed: MixedBits | None, name: str) -> WeightRule:
    """The rule of a layer, with the bits and group size of the bit search, if any."""
    rule, chosen = find_weight_rule(rules, name), mixed["mixed"]["layers"] if mixed else {}
    return {**rule, **chosen[name]} if name in chosen else rule


def check_widths(layers: list[Layer], weights: dict[str, mx.array], rules: dict[str, WeightRule]) -> None:
    """Raise UserError naming all layers whose width is no multiple of their group size."""
    unfit = []
    for layer in layers:
        rule, width = rules[layer.name], weights[f"{layer.path}.weight"].shape[1]
        try:
            if rule["bits"] != UNQUANTIZED:
                weight_grid.fit_group_size(width, rule["group_size"])
        except ValueError:
            unfit.append(f"{layer.name} ({width} inputs, group size {rule['group_size']})")
    if unfit:
        raise UserError(f"weights: no multiple of the group size: {', '.join(unfit)}; give them another, or 16 bits")


def reject_migrated(layers: list[Layer], packed: dict[str, PackedLayer]) -> None:
    """Raise UserError if a weight is migrated: DiffusionKit's layout cannot store migrations."""
    migrated = [layer.name for layer in layers if "migration" in packed[layer.path].tensors]
    if migrated:
        raise UserError(f"--uniform-g64 cannot hold migrated weights: {', '.join(migrated)}; learn without migration")


if __name__ == "__main__":
    parser = add_folds(build_parser(__doc__, "params"))
    parser.add_argument(
        "--blocks",
        type=Path,
        nargs="+",
        required=True,
        help="the distilled model, or the files of all blocks and of `shared`",
    )
    parser.add_argument("--mixed", type=Path, help="mixed_bits.json with the layers' bits, if bits_per_weight is set")
    parser.add_argument("--out-dir", type=Path, required=True, help="folder for model.safetensors and config.json")
    parser.add_argument(
        "--uniform-g64",
        action="store_true",
        help="4 bits in groups of 64 for every Linear, in the layout of DiffusionKit's 4-bit checkpoints",
    )
    run(main, parser)
