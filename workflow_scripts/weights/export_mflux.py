"""Write the packed transformer of FLUX.1-schnell in the layout of mflux; codes, scales and zero points are kept."""

import argparse
from collections import Counter
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np

from taqmlx.models.catalogue import find_model
from taqmlx.models.sd3 import ReleasedModel
from taqmlx.numerics.stored_types import convert_values
from taqmlx.planning import plan
from taqmlx.planning.layer_rules import UNQUANTIZED, read_scale_dtype
from taqmlx.planning.mflux_layout import MFLUX_DTYPE, MFLUX_MODEL, list_modules
from taqmlx.planning.stages import PackWeights
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.mflux_folder import convert_checkpoint, read_widths, write_transformer
from taqmlx.store.packed_checkpoint import PackedCheckpoint, count_bytes, read_packed
from taqmlx.store.parameters import read_parameters
from taqmlx.store.preflight import check_disk


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(PackWeights, arguments.params)
    checkpoint = read_packed(arguments.quantized)
    reject_others(checkpoint, parameters, arguments.quantized)
    modules = list_modules(*plan.MODEL_BLOCKS[MFLUX_MODEL])
    model = cast(ReleasedModel, find_model(MFLUX_MODEL, parameters))
    tensors = convert_checkpoint(checkpoint, modules, read_key_biases(model))
    bits = Counter(how["bits"] for how in checkpoint.config["quantization"].values())
    inputs = {"quantized": checkpoint.config["model"]["sha256"], "widths": read_widths(checkpoint)}
    level = max(bits, key=lambda width: bits[width], default=UNQUANTIZED)
    size = sum(map(count_bytes, tensors.values()))
    check_disk(arguments.out.parent, size, "choose a results_dir elsewhere")
    write_transformer(arguments.out, tensors, level, {"model": MFLUX_MODEL, "layout": "mflux"}, inputs)
    log.info(f"{len(modules)} modules, {size / 1e6:,.1f} MB, in the layout of mflux: {arguments.out}")


def reject_others(checkpoint: PackedCheckpoint, parameters: PackWeights, folder: Path) -> None:
    """Raise UserError unless the checkpoint is of the model and the stored type that mflux has."""
    for found, wanted, cure in (
        (parameters.model, MFLUX_MODEL, f"set model: {MFLUX_MODEL}"),
        (checkpoint.config["architecture"], MFLUX_MODEL, f"set model: {MFLUX_MODEL}"),
        (read_scale_dtype(checkpoint.config), MFLUX_DTYPE, f"set scale_dtype: {MFLUX_DTYPE}"),
    ):
        if found != wanted:
            raise UserError(f"{folder} is of {found}, and mflux needs {wanted}; {cure}, in a results_dir of its own")


def read_key_biases(model: ReleasedModel) -> dict[str, np.ndarray]:
    """Biases (out,) of the key projections by module path, float32 of bf16 values."""
    biases = model.load_key_biases()
    return {path: convert_values(np.array(bias.astype(mx.float32)), MFLUX_DTYPE) for path, bias in biases.items()}


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "quantized", "out"))
