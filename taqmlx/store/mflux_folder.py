"""Transformer in the layout of mflux: `mflux/transformer/`, numbered safetensors files and their index.

The codes, scales and zero points are those of the packed checkpoint. Tensors are uint32 and bf16. The metadata
`quantization_level` makes mflux read bits and group sizes from the shapes, and a layer without scales as it is. The
seal, `mflux/transformer.json`, has the digest of every file and, under `widths`, the transformer's sizes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from taqmlx.numerics.weight_grid import pack_codes, unpack_codes
from taqmlx.planning import plan
from taqmlx.planning.documents import Inputs
from taqmlx.planning.mflux_layout import INDEX, MFLUX_VERSION, SHARD_BYTES, Module
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, write_folder, write_json, write_plain_json
from taqmlx.store.packed_checkpoint import PackedCheckpoint, count_bytes
from taqmlx.store.seal import make_seal
from taqmlx.store.tensors import write_bfloat16

Tensors = dict[str, np.ndarray]


def convert_checkpoint(
    checkpoint: PackedCheckpoint, modules: Iterable[Module], key_biases: Mapping[str, np.ndarray]
) -> Tensors:
    """Tensors of mflux's `modules` by name, float32 ones of bf16 values.

    key_biases: of the key projections, by DiffusionKit path. Raises UserError for a migrated layer, for layers that
    cannot be joined, and for a tensor that no module takes.
    """
    if migrated := checkpoint.config["migrated"]:
        raise UserError(f"{checkpoint.path}: mflux cannot divide the input of {migrated[0]}; learn without migration")
    tensors: Tensors = {}
    used: set[str] = set()
    for module in modules:
        parts = convert_module(checkpoint, module, key_biases)
        if module.is_swapped:
            parts = {part: np.concatenate(np.split(array, 2)[::-1]) for part, array in parts.items()}
        tensors |= {f"{module.path}.{part}": array for part, array in parts.items()}
        used.update(module.sources)
    left = [name for name in checkpoint.tensors if name.rpartition(".")[0] not in used]
    if left:
        raise UserError(f"{checkpoint.path}: mflux has no place for {left[0]} ({len(left)} such tensors)")
    return tensors


def convert_module(checkpoint: PackedCheckpoint, module: Module, key_biases: Mapping[str, np.ndarray]) -> Tensors:
    """Tensors of a module by part, before the halves of its outputs are swapped. Raises UserError."""
    tensors, first = checkpoint.tensors, module.sources[0]
    if module.inputs is None:
        return {"weight": tensors[f"{first}.weight"]}
    found = [path in checkpoint.config["quantization"] for path in module.sources]
    if any(found) != all(found):
        raise UserError(
            f"{checkpoint.path}: {' and '.join(module.sources)} are one layer in mflux, and only one of them is"
            " quantized; give both weights, or both 16 bits"
        )
    parts = join_quantized(checkpoint, module.sources) if all(found) else join_plain(tensors, module.sources)
    # DiffusionKit loads the bias of a unified block's sum into both layers, and adds that of the first.
    bias = key_biases[first] if first in key_biases else tensors[f"{first}.bias"]
    return parts | {"bias": bias}


def join_plain(tensors: Mapping[str, np.ndarray], paths: Sequence[str]) -> Tensors:
    """Weight (out, in) of layers that are not quantized, joined along the inputs; a patch embedding has one pixel."""
    weights = [tensors[f"{path}.weight"] for path in paths]
    return {"weight": np.concatenate([weight.reshape(len(weight), -1) for weight in weights], axis=1)}


def join_quantized(checkpoint: PackedCheckpoint, paths: Sequence[str]) -> Tensors:
    """Packed codes, scales and zero points of layers joined along the inputs, with the values of each unchanged.

    The most bits and the smallest groups of the layers hold all codes, scales and zero points as they are.
    """
    tensors, kinds = checkpoint.tensors, [checkpoint.config["quantization"][path] for path in paths]
    bits, group_size = max(how["bits"] for how in kinds), min(how["group_size"] for how in kinds)
    if len(paths) == 1:
        return {part: tensors[f"{paths[0]}.{part}"] for part in ("weight", "scales", "biases")}
    codes = [unpack_codes(tensors[f"{path}.weight"], how["bits"]) for path, how in zip(paths, kinds, strict=True)]
    repeats = [how["group_size"] // group_size for how in kinds]
    joined = {
        part: np.concatenate(
            [np.repeat(tensors[f"{path}.{part}"], count, axis=1) for path, count in zip(paths, repeats, strict=True)],
            axis=1,
        )
        for part in ("scales", "biases")
    }
    return {"weight": pack_codes(np.concatenate(codes, axis=1), bits)} | joined


def read_widths(checkpoint: PackedCheckpoint) -> dict[str, int]:
    """Sizes of the checkpoint's transformer."""
    tensors, norm = checkpoint.tensors, "multimodal_transformer_blocks.0.image_transformer_block.qk_norm.q_norm.weight"
    return {
        "width": len(tensors["x_embedder.proj.weight"]),
        "head": len(tensors[norm]),
        "patch": tensors["x_embedder.proj.weight"].shape[-1],
        "context": count_inputs(checkpoint, "context_embedder"),
        "pooled": count_inputs(checkpoint, "y_embedder.mlp.layers.0"),
        "frequencies": count_inputs(checkpoint, "t_embedder.mlp.layers.0"),
    }


def count_inputs(checkpoint: PackedCheckpoint, path: str) -> int:
    """Inputs of the linear layer at `path`."""
    how = checkpoint.config["quantization"].get(path)
    found: int = checkpoint.tensors[f"{path}.scales" if how else f"{path}.weight"].shape[1]
    return found * int(how["group_size"]) if how else found


def write_transformer(folder: Path, tensors: Tensors, bits: int, parameters: plan.Parameters, inputs: Inputs) -> None:
    """Write `tensors` as mflux saves them to the new folder `folder`, then its seal beside it.

    bits: named in the metadata; mflux reads those of each layer from its shapes.
    """
    metadata = {"quantization_level": str(bits), "mflux_version": MFLUX_VERSION}
    digests: dict[str, str] = {}

    def fill(partial: Path) -> None:
        weight_map: dict[str, str] = {}
        for index, shard in enumerate(split_tensors(tensors)):
            weight_map |= dict.fromkeys(shard, f"{index}.safetensors")
            write_bfloat16(partial / f"{index}.safetensors", shard, metadata)
        write_plain_json(partial / INDEX, {"metadata": metadata, "weight_map": weight_map})
        digests.update({f"{folder.name}/{file.name}": hash_file(file) for file in sorted(partial.iterdir())})

    write_folder(folder, fill)
    write_json(folder.with_name(f"{folder.name}.json"), make_seal(parameters, inputs, digests))


def split_tensors(tensors: Tensors) -> Iterator[Tensors]:
    """`tensors` in order, in parts of at most SHARD_BYTES."""
    shard: Tensors = {}
    size = 0
    for name, array in tensors.items():
        if shard and size + count_bytes(array) > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = array
        size += count_bytes(array)
    yield shard
