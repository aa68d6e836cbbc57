"""What the blocks' sensitivity files say of each layer, by its name."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class InputTier(NamedTuple):
    """What a layer reads, rounded to so many bits.

    errors: float64 (J,), relative squared errors of the block's output at sigmas (J,); clip: the share of the largest
    magnitude that the grid reaches; inside: the share of values within it.
    """

    sigmas: list[float]
    errors: np.ndarray
    clip: float
    inside: float


class LayerErrors(NamedTuple):
    """By layer name and bits: what its input rounded costs, and its weight rounded, in the stream that suffers most."""

    inputs: dict[str, dict[int, InputTier]]
    weights: dict[str, dict[int, float]]


def list_layer_errors(blocks: Mapping[str, dict[str, Any]]) -> LayerErrors:
    """The errors of all layers of the sensitivity files' contents. Layers that share an input share its entry."""
    inputs: dict[str, dict[int, InputTier]] = {}
    weights: dict[str, dict[int, float]] = {}
    for content in blocks.values():
        for found in content["inputs"].values():
            tiers = {int(bits): read_tier(tier, content["sigmas"]) for bits, tier in found["tiers"].items()}
            inputs |= dict.fromkeys(found["layers"], tiers)
        for name, found in content["weights"].items():
            weights[name] = {
                int(bits): max(errors[stream] for stream in content["gains"] if errors.get(stream) is not None)
                for bits, errors in found["errors"].items()
            }
    return LayerErrors(inputs, weights)


def read_tier(tier: Mapping[str, Any], sigmas: list[float]) -> InputTier:
    """One input at some bits."""
    return InputTier(sigmas, np.array(tier["errors"], np.float64), tier["clip"], tier["inside"])
