"""Types of the JSON documents about pictures and their quality, as they are on disk. Standard library only."""

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

Quality = Literal["median", "p5"]


class Estimate(TypedDict):
    """A value with its 95 % interval, from `n` pictures; `median` in place of `value` for a median of pictures."""

    value: NotRequired[float]
    median: NotRequired[float | None]
    interval_95: Sequence[float | None]
    n: NotRequired[int]
    worst: NotRequired[float | None]
    equal: NotRequired[int]


class Interval(TypedDict):
    """A value with its 95 % interval."""

    value: float
    interval_95: list[float]


# evaluation/prompts.json
class EvaluationPrompt(TypedDict):
    """A prompt, and the attributes it asks for, if they are known."""

    text: str
    asked: list[int] | None


class PictureRow(TypedDict):
    """One picture: the index of its prompt, and its seed."""

    prompt: int
    seed: int


class EvaluationPrompts(TypedDict):
    """Prompts and pictures of the evaluation."""

    prompts: list[EvaluationPrompt]
    pictures: list[PictureRow]


# frontier.json and frontier/*.json
class MeasuredWay(TypedDict):
    """SNR of each picture of one quantized model to full precision, in dB."""

    name: str
    title: str
    bits_per_weight: float
    ratios: list[float]


class WayQuality(TypedDict):
    """SNR to full precision in dB: the median picture, the 5th percentile, and the share of pictures below 5 dB."""

    median: Interval
    p5: Interval
    otherwise: Interval


class Way(MeasuredWay, WayQuality):
    """Size and quality of one quantized model; `asked` and `bits_saved` only for those of this project."""

    asked: NotRequired[float]
    bits_saved: NotRequired[dict[Quality, Interval]]


class Frontier(TypedDict):
    """Measured quality against size."""

    n: int
    steps: int
    cfg: float
    ways: list[Way]


# evaluation/sizes/VARIANT.json
class VariantSize(TypedDict):
    """Sizes of all linear layers of a variant."""

    weights: int
    bytes: int
    bits_per_weight: float
    quantized_layers: int
    activation_bits: list[int]
    precision: str


# evaluation/growth/VARIANT.json
class Growth(TypedDict):
    """SNR of each picture at each step, in dB, by mode; null for equal latents."""

    format: str
    variant: str
    prompts: list[int]
    sigmas: list[float]
    latent_snr: dict[str, list[list[float | None]]]


# weights_ladder.json
class RungPictures(TypedDict):
    """SNR of final latents in dB."""

    typical: float
    worst: float
    pictures: list[float]


class RungBlocks(TypedDict):
    """SNR of block outputs in dB, by block and stream."""

    typical: float
    worst: float
    blocks: dict[str, dict[str, float]]


class Gain(Interval):
    """Median of the differences in SNR, picture by picture, between a rung and its `base`, in dB."""

    base: str


class Rung(TypedDict):
    """Results of one rung of the ladder; chosen: rounding method by block; gain: if another rung is its base."""

    gain: NotRequired[Gain]
    rung: str
    title: str
    latent_snr: RungPictures
    block_snr: RungBlocks
    chosen: dict[str, str]


# sample or picture metadata
class FeatureSource(TypedDict):
    """A file of weights of a feature network."""

    path: str
    sha256: str


# Distances, metrics and descriptions of a variant, by name.
Metrics = dict[str, Any]
