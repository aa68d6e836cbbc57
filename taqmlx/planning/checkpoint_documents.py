"""Types of the JSON documents of the quantized model, key by key as they are on disk. Standard library only.

They are quantized/config.json and quant_config.json, which `docs/formats.md` describes.
"""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from taqmlx.planning.documents import ArraysFile, Inputs
from taqmlx.planning.layer_rules import GroupSize


# quantized/config.json
class Affine(TypedDict):
    """`nn.quantize` parameters of one layer."""

    bits: int
    group_size: int
    mode: NotRequired[str]


class ModelFile(TypedDict):
    """The file of a packed checkpoint's tensors."""

    file: str
    sha256: str
    bytes: int


class PackedSizes(TypedDict):
    """Sizes of a packed checkpoint; parameters: share of all parameters by stored bits."""

    bits_per_weight: float
    quantized_weights: int
    parameters: dict[str, float]


class PackedLayers(PackedSizes):
    """Quantized layers of a packed checkpoint, by module path."""

    quantization: dict[str, Affine]
    nominal_bits: dict[str, int]
    codes: dict[str, str]
    rounded: list[str]
    migrated: list[str]
    model: ModelFile


class PackedConfig(PackedLayers):
    """Description of a packed checkpoint."""

    format: str
    version: int
    architecture: str
    prefix: str
    scale_dtype: NotRequired[str]
    origin: Inputs


# quant_config.json
ArrayKind = Literal["steps", "shift", "migration"]


class ActivationEntry(TypedDict):
    """Quantizer of one layer input; steps, shift and migration name arrays."""

    policy: str
    bits: int | list[int]
    range: NotRequired[str]
    group_size: NotRequired[GroupSize]
    step: NotRequired[float]
    steps: NotRequired[str]
    shift: NotRequired[str | None]
    migration: NotRequired[str | None]


class LayerEntry(TypedDict):
    """One layer of the quantization config: module path, weight and input."""

    path: str
    weight: Mapping[str, Any]
    activation: ActivationEntry


class WeightsFile(TypedDict):
    """The packed checkpoint of a quantization config."""

    file: str
    sha256: str
    config: str
    bits_per_weight: float


class QuantConfigDocument(TypedDict):
    """The quantization config."""

    format: str
    version: int
    model: str
    sigmas: list[float]
    weights: WeightsFile
    arrays: ArraysFile
    layers: dict[str, LayerEntry]
    realization: dict[str, str]
    analysis: NotRequired[dict[str, Any]]
    origin: Inputs
