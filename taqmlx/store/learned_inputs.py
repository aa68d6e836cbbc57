"""Input quantizers determined by the blocks' jobs, checked against activation rules and packed checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.sigma_lookup import find_nearest_knot
from taqmlx.planning import plan
from taqmlx.planning.checkpoint_documents import PackedConfig
from taqmlx.planning.layer_rules import InputPattern, find_input_rule
from taqmlx.store.block_file import BlockFile, read_block
from taqmlx.store.errors import UserError, report_damage

TOLERANCE = 1e-6  # relative; noise levels may have passed through float32


# block name: path and content of its file
Blocks = Mapping[str, tuple[Path, BlockFile]]


def read_blocks(paths: Sequence[Path]) -> Blocks:
    """Read block files by block name. Raises UserError if one is damaged or two are of the same block."""
    blocks: dict[str, tuple[Path, BlockFile]] = {}
    for path in paths:
        block = read_block(path)
        with report_damage(path):
            name = block.seal["parameters"]["block"]
            if name in blocks:
                raise UserError(f"{blocks[name][0]} and {path} are both of the block {name}; name one of them")
            blocks[name] = path, block
    return blocks


def check_blocks(
    blocks: Blocks, rules: Sequence[InputPattern], checkpoint: PackedConfig, layer_paths: Mapping[str, str]
) -> None:
    """Raise UserError, naming the difference, unless the blocks fit activation `rules` and packed checkpoint.

    They must be the blocks that the checkpoint (its `config.json`) was packed from, optimised for these rules.
    layer_paths: module path of each layer by name.
    """
    if wrong := set(checkpoint["origin"]["blocks"]) ^ set(blocks):
        raise UserError(f"blocks: {', '.join(sorted(wrong))}: named or packed, but not both; name the packed blocks")
    for path, block in blocks.values():
        with report_damage(path):
            check_rules(path, block, rules)
            check_weights(path, block, checkpoint, layer_paths)


def check_rules(path: Path, block: BlockFile, rules: Sequence[InputPattern]) -> None:
    """Raise UserError unless each layer of the block was optimised for its activation rule."""
    for name, sealed in block.seal["parameters"]["layers"].items():
        if difference := plan.describe_difference(sealed["activation"], find_input_rule(rules, name)):
            raise UserError(f"{path} was made with other rules: {name}: {difference}; run optimise_block again")


def check_weights(path: Path, block: BlockFile, checkpoint: PackedConfig, layer_paths: Mapping[str, str]) -> None:
    """Raise UserError unless model, codes and migrated layers of the block match the checkpoint."""
    if block.seal["inputs"]["model"] != checkpoint["origin"]["model"]:
        raise UserError(f"{path} and the packed checkpoint were made from different weight files; make both again")
    for name, digest in block.seal["sha256"]["codes"].items():
        quantizer, place = block.inputs.get(name), layer_paths[name]
        if checkpoint["codes"].get(place) != digest:
            raise UserError(f"{name}: the packed checkpoint's codes are not those of {path}; run pack_weights again")
        if (quantizer is not None and quantizer.is_migrated) != (place in checkpoint["migrated"]):
            raise UserError(f"{name}: {path} and the packed checkpoint differ in migration; run pack_weights again")


def pick_inputs(blocks: Blocks, sigmas: Sequence[float]) -> dict[str, InputQuantizer]:
    """Input quantizers by layer name, with step size tables at `sigmas` (S,) only.

    Raises UserError, naming the noise level, if a block was not optimised at one of them.
    """
    picked = {}
    for path, block in blocks.values():
        with report_damage(path):
            places = find_sigmas(sigmas, block.sigmas, path)
            for name, quantizer in block.inputs.items():
                steps = quantizer.step_sizes if len(quantizer.step_sizes) == 1 else quantizer.step_sizes[places]
                migration = quantizer.migration if quantizer.is_migrated else None
                picked[name] = replace(quantizer, steps=steps, migration=migration)
    return picked


def find_sigmas(sigmas: Sequence[float], knots: np.ndarray, path: Path) -> list[int]:
    """Index of each of `sigmas` in `knots` (K,). Raises UserError naming a sigma that is not there."""
    places = [find_nearest_knot(sigma, knots) for sigma in sigmas]
    for sigma, place in zip(sigmas, places, strict=True):
        if abs(knots[place] - sigma) > TOLERANCE * sigma:
            raise UserError(
                f"{path} has no step sizes at the noise level {sigma:.6g} of the statistics; make both from one"
                " calibration set"
            )
    return places
