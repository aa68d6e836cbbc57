"""Quantization errors per layer, from the blocks' sensitivity files."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from taqmlx.planning.documents import Sensitivity, TierErrors


class InputTier(NamedTuple):
    """Layer input quantized to a number of bits.

    errors: float64 (J,), relative squared errors of the block's output at sigmas (J,); clip: clipping range as a share
    of the absmax; inside: share of values within it.
    """

    sigmas: list[float]
    errors: np.ndarray
    clip: float
    inside: float


class LayerErrors(NamedTuple):
    """Errors by layer name and bits: of the quantized input, and of the quantized weight in its worst stream."""

    inputs: dict[str, dict[int, InputTier]]
    weights: dict[str, dict[int, float]]


def list_layer_errors(blocks: Mapping[str, Sensitivity]) -> LayerErrors:
    """Errors of all layers in the sensitivity files' contents. Layers that share an input share its entry."""
    inputs: dict[str, dict[int, InputTier]] = {}
    weights: dict[str, dict[int, float]] = {}
    for content in blocks.values():
        for found in content["inputs"].values():
            tiers = {int(bits): read_tier(tier, content["sigmas"]) for bits, tier in found["tiers"].items()}
            inputs |= dict.fromkeys(found["layers"], tiers)
        for name, weight in content["weights"].items():
            weights[name] = {
                int(bits): max(errors[stream] for stream in content["gains"] if errors.get(stream) is not None)
                for bits, errors in weight["errors"].items()
            }
    return LayerErrors(inputs, weights)


def read_tier(tier: TierErrors, sigmas: list[float]) -> InputTier:
    """Read one input at one number of bits."""
    return InputTier(sigmas, np.array(tier["errors"], np.float64), tier["clip"], tier["inside"])
