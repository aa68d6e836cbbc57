"""Types of the JSON documents about layers and blocks, key by key as they are on disk. Standard library only.

`docs/formats.md` describes the files. Documents of the quantized model are in `checkpoint_documents.py`, those about
pictures in `evaluation_documents.py`.
"""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

# A configuration as it is in YAML: untyped until `Stage.decode` reads the parameters of a stage from it.
Config = dict[str, Any]
# A quantization rule as it is in YAML, before its defaults are filled in.
Rule = dict[str, Any]
# A JSON schema, or a part of one.
Schema = dict[str, Any]
# Nested digests (sha256) of the files that a result was made from, by name, and shapes of their arrays.
Inputs = dict[str, Any]
# Digests (sha256) of the files of a result, by name; those of one kind may be nested.
Digests = dict[str, Any]


class ArraysFile(TypedDict):
    """The file with a document's arrays, beside it."""

    file: str
    sha256: str


# activations/statistics.json
class InputStatistics(TypedDict):
    """Statistics of one layer input; per_step: lists over the steps; overall: quantiles over all steps."""

    channels: int
    rows: list[int]
    arrays: list[str]
    per_step: dict[str, list[float]]
    overall: dict[str, float]
    layers: NotRequired[list[str]]  # that share the input


class StatisticsFormat(TypedDict):
    """Name and version of the format."""

    format: str
    version: int


class Statistics(StatisticsFormat):
    """Activation statistics of all layer inputs."""

    model: str
    steps: list[int]
    sigmas: list[float]
    arrays: ArraysFile
    quantiles: dict[str, Any]
    inputs: dict[str, InputStatistics]
    origin: Inputs


# adaround/BLOCK.report.json
# Relative squared error by stream.
StreamErrors = dict[str, float]


# How a block is run with each candidate.
InputKind = Literal["quantized_inputs", "full_precision_inputs"]


class CandidateErrors(TypedDict):
    """Held-out errors of one candidate."""

    quantized_inputs: StreamErrors
    full_precision_inputs: StreamErrors


class LossCurve(TypedDict):
    """Mean losses over runs of `every` iterations."""

    every: int
    values: list[float]


class LearnedLayer(TypedDict):
    """Share of codes that differ from RTN, and number of migrated channels."""

    moved_from_nearest: float
    migrated_channels: int


class BlockReport(TypedDict):
    """Errors of a block by rounding method, and the method chosen."""

    block: NotRequired[str]
    chosen: str
    rows: dict[str, int]
    errors: dict[str, CandidateErrors]
    layers: dict[str, LearnedLayer]
    loss: LossCurve


class ModelReport(TypedDict):
    """Errors of the guided velocity before and after distillation; moved_codes: share of changed codes by layer."""

    block: NotRequired[str]
    chosen: str
    points: dict[str, int]
    errors: dict[str, float]
    moved_codes: dict[str, float]
    loss: LossCurve


# sensitivity/BLOCK.json
class WeightSensitivity(TypedDict):
    """Errors of one weight; errors: by bits, then by stream, the velocity or `bits_per_weight`."""

    elements: int
    config_bits: int
    errors: dict[str, dict[str, float]]


class TierErrors(TypedDict):
    """Errors of one layer input at one bit width, at each noise level."""

    clip: float
    inside: float
    errors: list[float]


class InputSensitivity(TypedDict):
    """Errors of one layer input; tiers and clips: by bits."""

    layers: list[str]
    post_gelu: bool
    tiers: dict[str, TierErrors]
    clips: dict[str, dict[str, float]]


class HistogramGrid(TypedDict):
    """Grid of one post-GELU input at the noise level with index `knot`."""

    knot: int
    sigma: float
    step: float
    bits: int
    migrated_step: float
    has_migration: bool


class Sensitivity(TypedDict):
    """Quantization sensitivity of the layers of one block."""

    model: str
    block: str
    parameters: dict[str, Any]
    sigmas: list[float]
    points: int
    velocity_points: int
    gains: dict[str, float]
    weights: dict[str, WeightSensitivity]
    inputs: dict[str, InputSensitivity]
    distributions: dict[str, HistogramGrid]
    origin: NotRequired[Inputs]
    arrays: NotRequired[ArraysFile]


# mixed_bits.json
class Bits(TypedDict):
    """Bits and group size of one weight."""

    bits: int
    group_size: int


class ChosenBits(TypedDict):
    """One selection of the bit search; layers: `bits` and `group_size` by layer name."""

    bits_per_weight: float
    predicted: float
    layers: dict[str, Bits]


class MixedBits(TypedDict):
    """Bits and group sizes chosen by the search."""

    model: str
    budget: float
    parameters: dict[str, Any]
    uniform: ChosenBits
    mixed: ChosenBits
    rules: list[Rule]
    ranks: NotRequired[Mapping[str, int]]
    origin: NotRequired[Inputs]
