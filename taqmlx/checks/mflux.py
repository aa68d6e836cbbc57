"""Checks of a transformer in the layout of mflux, whose loader is silent on missing and unknown tensors."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from taqmlx.checks.packed import check_numbers
from taqmlx.checks.packed_products import PackedLinear, find_wrong_products
from taqmlx.planning import plan
from taqmlx.planning.mflux_layout import INDEX, MFLUX_MODEL, Module, Widths, list_modules
from taqmlx.store.errors import report_damage
from taqmlx.store.files import hash_file, read_plain_json
from taqmlx.store.safetensors_header import StoredTensor, read_header
from taqmlx.store.seal import Seal, read_file_seal
from taqmlx.store.tensors import read_metadata, read_tensors

BITS, GROUP_SIZES = (2, 3, 4, 5, 6, 8), (32, 64, 128)  # that mflux reads from shapes
PARTS = ("weight", "scales", "biases")
TYPES = {"weight": "U32", "scales": "BF16", "biases": "BF16", "bias": "BF16"}
PLAIN = "BF16"  # of a weight that is not quantized


class SavedTransformer(NamedTuple):
    """A folder of mflux: its seal, its index (file of each tensor), headers by file, and tensors, bf16 as float32."""

    folder: Path
    seal: Seal
    files: dict[str, str]
    headers: dict[str, dict[str, StoredTensor]]
    tensors: dict[str, np.ndarray]

    @property
    def widths(self) -> Widths:
        """Sizes of the transformer."""
        widths: Widths = self.seal["inputs"]["widths"]
        return widths


def open_transformer(folder: Path) -> SavedTransformer:
    """Read the folder `transformer` of mflux. Raises UserError if its seal, its index or a file cannot be read."""
    seal = read_file_seal(folder.with_name(f"{folder.name}.json"))
    path = folder / INDEX
    content = read_plain_json(path)
    with report_damage(path):
        index = {str(name): str(file) for name, file in content["weight_map"].items()}
        reject_paths(index)
    names = sorted(set(index.values()))
    headers = {name: read_header(folder / name) for name in names}
    tensors = {key: array for name in names for key, array in read_tensors(folder / name).items()}
    return SavedTransformer(folder, seal, index, headers, tensors)


def reject_paths(index: dict[str, str]) -> None:
    """Raise ValueError for a file that is not named by its bare name."""
    for file in index.values():
        if Path(file).name != file:
            raise ValueError(f"{file[:80]!r} is no file name")


def find_faults(saved: SavedTransformer) -> list[str]:
    """All faults: of files and index, of the layout, of the numbers, and of MLX's products with the packed weights."""
    modules = list_modules(*plan.MODEL_BLOCKS[MFLUX_MODEL])
    layout = [*check_names(saved, modules), *(line for module in modules for line in check_module(saved, module))]
    faults = [*check_files(saved), *check_metadata(saved), *layout, *check_numbers(saved.tensors)]
    return faults or list(find_wrong_products(list_packed(saved, modules)))


def check_files(saved: SavedTransformer) -> Iterator[str]:
    """Yield files that are not those of the seal, and tensors in other files than the index names."""
    sealed = saved.seal["sha256"]
    found = {f"{saved.folder.name}/{path.name}" for path in saved.folder.iterdir() if not path.name.startswith(".")}
    for name in sorted(found ^ sealed.keys()):
        yield f"{name} is {'missing' if name in sealed else 'not of this transformer'}"
    for name in sorted(found & sealed.keys()):
        if hash_file(saved.folder.parent / name) != sealed[name]:
            yield f"{name} does not have the sha256 in its seal"
    stored = {key: name for name, header in saved.headers.items() for key in header}
    for key in sorted(key for key in stored.keys() | saved.files.keys() if stored.get(key) != saved.files.get(key)):
        yield f"{key} is in {stored.get(key)}, and {INDEX} names {saved.files.get(key)}"


def check_metadata(saved: SavedTransformer) -> Iterator[str]:
    """Yield files without the metadata by which mflux knows its own."""
    for name in saved.headers:
        metadata = read_metadata(saved.folder / name)
        if not metadata.get("quantization_level", "").isdigit() or "mflux_version" not in metadata:
            yield f"{name}: its metadata have no quantization_level and mflux_version"


def check_names(saved: SavedTransformer, modules: list[Module]) -> Iterator[str]:
    """Yield tensors of no module."""
    known = {f"{module.path}.{part}" for module in modules for part in TYPES}
    for name in sorted(saved.tensors.keys() - known):
        yield f"{name}: mflux has no such tensor"


def check_module(saved: SavedTransformer, module: Module) -> Iterator[str]:
    """Yield missing, surplus and misshapen tensors of a module, and tensors of another type."""
    header = {key: about for found in saved.headers.values() for key, about in found.items()}
    own = {part: header[name] for part in TYPES if (name := f"{module.path}.{part}") in header}
    is_quantized = "scales" in own or "biases" in own
    wanted = ["weight"] if module.inputs is None else [*(PARTS if is_quantized else PARTS[:1]), "bias"]
    for part in sorted(set(wanted) ^ own.keys()):
        yield f"{module.path}.{part} is {'missing' if part in wanted else 'surplus'}"
    if set(wanted) != own.keys():
        return
    for part, about in own.items():
        right = PLAIN if part == "weight" and not is_quantized else TYPES[part]
        if about.dtype != right:
            yield f"{module.path}.{part} is of the type {about.dtype}, not {right}"
    shape = module.shape(saved.widths)
    if "bias" in own and own["bias"].shape != [shape[0]]:
        yield f"{module.path}.bias is {own['bias'].shape}, not {[shape[0]]}"
    if not is_quantized and own["weight"].shape != list(shape):
        yield f"{module.path}.weight is {own['weight'].shape}, not {list(shape)}"
    if is_quantized and find_format(own, shape) is None:
        shapes = ", ".join(f"{part} {own[part].shape}" for part in PARTS)
        yield f"{module.path}: {shapes} fit no bits and group size for a weight {list(shape)}"


def find_format(own: dict[str, StoredTensor], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Bits and group size of a quantized layer of `shape` (out, in), as mflux reads them from the shapes; or None."""
    outputs, inputs = shape
    for bits in BITS:
        for size in GROUP_SIZES:
            grid = [outputs, inputs // size]
            found = [own[part].shape for part in PARTS]
            if inputs % size == 0 and found == [[outputs, inputs * bits // 32], grid, grid]:
                return bits, size
    return None


def list_packed(saved: SavedTransformer, modules: list[Module]) -> dict[str, PackedLinear]:
    """The quantized layers of a transformer without faults, by path."""
    header = {key: about for found in saved.headers.values() for key, about in found.items()}
    packed = {}
    for module in modules:
        own = {part: header[name] for part in PARTS if (name := f"{module.path}.{part}") in header}
        how = find_format(own, module.shape(saved.widths)) if len(own) == len(PARTS) else None
        if how is not None:
            packed[module.path] = PackedLinear(
                saved.tensors[f"{module.path}.weight"],
                saved.tensors[f"{module.path}.scales"],
                saved.tensors[f"{module.path}.biases"],
                *how,
            )
    return packed
