"""Attribute classifier that ships with the embedded model: attributes and features of pictures.

Its predictions give prompt accuracy; its feature vector is used for FID and KID if Inception weights are absent.
"""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from taqmlx.models.embedded import CONFIG, FOLDER, fill_module, read_weights

WIDTHS, FEATURES = tuple(CONFIG["classifier"]["widths"]), CONFIG["classifier"]["features"]
HEADS: dict[str, int] = dict(CONFIG["classifier"]["heads"])  # attribute -> number of values, in the order of the logits
GROUPS = 8
GRID = 4  # the last feature map is 4 x 4
BATCH = 128  # pictures classified at a time, to bound memory


class Classifier(nn.Module):
    """Four strided convolutions, a feature layer, and one linear layer with all heads concatenated."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        self.convolutions = [nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in zip(inputs, WIDTHS, strict=True)]
        self.norms = [nn.GroupNorm(GROUPS, width, pytorch_compatible=True) for width in WIDTHS]
        self.embed = nn.Linear(GRID * GRID * WIDTHS[-1], FEATURES)
        self.heads = nn.Linear(FEATURES, sum(HEADS.values()))

    def features(self, x: mx.array) -> mx.array:
        """Feature vectors (n, 128) of pictures (n, 64, 64, 3) in [-1, 1]."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nn.relu(norm(convolution(x)))
        return nn.relu(self.embed(x.reshape(len(x), -1)))  # (n, 4, 4, c) -> (n, 16 c)

    def __call__(self, x: mx.array) -> mx.array:
        """Logits (n, all heads) of pictures (n, 64, 64, 3) in [-1, 1]."""
        return self.heads(self.features(x))


def load_classifier(folder: Path = FOLDER) -> Classifier:
    """Load the trained classifier, fp32."""
    return fill_module(Classifier(), read_weights(folder / "classifier.safetensors"))


def judge_pictures(classifier: Classifier, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classify pictures (n, 64, 64, 3) uint8.

    Returns the most likely value of each attribute, (n, attributes) int in the order of `HEADS`, and the features (n,
    128) fp32. Attributes that do not apply (the second object of a picture with one) have arbitrary values.
    """
    ends = np.cumsum(list(HEADS.values()))[:-1]
    values, features = [], []
    for start in range(0, len(pictures), BATCH):
        x = mx.array(pictures[start : start + BATCH]).astype(mx.float32) / 127.5 - 1
        features.append(np.array(classifier.features(x)))
        logits = np.split(np.array(classifier.heads(mx.array(features[-1]))), ends, axis=1)
        values.append(np.stack([part.argmax(axis=1) for part in logits], axis=1))
    return np.concatenate(values), np.concatenate(features)


def compare_attributes(values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """True for each correct attribute, (n, attributes) bool; attributes not requested (-1) count as correct."""
    return (values == asked) | (asked < 0)
