"""Exact changes of an MMDiT's weights that give its layer inputs outliers: the function of the weights stays the same.

Layer norms have no gain of their own, so what scales or moves a modulated channel is undone in the next layer. GELU is
not homogeneous: behind it only spare units can be added, in pairs that cancel.
"""

from collections.abc import Sequence

import numpy as np

# float64, by DiffusionKit's names; changed in place
Weights = dict[str, np.ndarray]

ATTENTION, MLP = 0, 3  # first of the adaLN parts shift, scale and gate of a half of a block
READERS = {
    "qkv": (ATTENTION, ("attn.q_proj", "attn.k_proj", "attn.v_proj")),
    "fc1": (MLP, ("mlp.fc1",)),
    "final": (ATTENTION, ("linear",)),
}
MLP_RATIO = 4  # of the model as trained; units beyond are spare
ADALN = "adaLN_modulation.layers.1"


def find_modulation(weights: Weights, stream: str, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight rows (D, D) and biases (D,) of the adaLN output `part` of a stream, as views."""
    weight, bias = weights[f"{stream}.{ADALN}.weight"], weights[f"{stream}.{ADALN}.bias"]
    rows = slice(part * weight.shape[1], (part + 1) * weight.shape[1])
    return weight[rows], bias[rows]


def rank_channels(weights: Weights, stream: str, part: int) -> np.ndarray:
    """Channels (D,) of a modulated norm, those whose scale and shift depend most on the condition first."""
    norms = sum(np.square(find_modulation(weights, stream, part + place)[0]).sum(axis=1) for place in (0, 1))
    return np.argsort(-norms, kind="stable")


def scale_norm(weights: Weights, stream: str, reader: str, factors: np.ndarray) -> None:
    """Scale the channels of a modulated norm by `factors` (D,), and the columns of its readers by the inverse."""
    first, layers = READERS[reader]
    for part in (first, first + 1):
        weight, bias = find_modulation(weights, stream, part)
        weight *= factors[:, None]
        bias *= factors
    bias += factors - 1  # of the scale s, which is used as 1 + s
    for layer in layers:
        weights[f"{stream}.{layer}.weight"] /= factors


def move_norm(weights: Weights, stream: str, reader: str, offsets: np.ndarray) -> None:
    """Add `offsets` (D,) to the channels of a modulated norm, and subtract what they contribute from the biases."""
    first, layers = READERS[reader]
    find_modulation(weights, stream, first)[1][:] += offsets
    for layer in layers:
        weights[f"{stream}.{layer}.bias"] -= weights[f"{stream}.{layer}.weight"] @ offsets


def scale_values(weights: Weights, streams: Sequence[str], factors: np.ndarray) -> None:
    """Scale the values of a block's `streams` by `factors` (D,), and the columns of their output projections back."""
    for stream in streams:
        weights[f"{stream}.attn.v_proj.weight"] *= factors[:, None]
        weights[f"{stream}.attn.v_proj.bias"] *= factors
        if f"{stream}.attn.o_proj.weight" in weights:
            weights[f"{stream}.attn.o_proj.weight"] /= factors


def widen_mlps(weights: Weights, width: int) -> None:
    """Give every MLP `width` units; the new ones are zero."""
    for name in [name for name in weights if ".mlp.fc1." in name]:
        rows = width - len(weights[name])
        weights[name] = np.pad(weights[name], [(0, rows)] + [(0, 0)] * (weights[name].ndim - 1))
    for name in [name for name in weights if name.endswith(".mlp.fc2.weight")]:
        weights[name] = np.pad(weights[name], [(0, 0), (0, width - weights[name].shape[1])])


def draw_units(weights: Weights, stream: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices (count,) of units of a stream's MLP that are not spare, chosen by `rng`."""
    width = len(weights[f"{stream}.mlp.fc2.weight"])
    return rng.choice(MLP_RATIO * width, count, replace=False)


def add_units(
    weights: Weights, stream: str, rows: np.ndarray, biases: np.ndarray, columns: np.ndarray, constant: np.ndarray
) -> None:
    """Fill the first spare units of a stream's MLP: fc1 `rows` (n, D) and `biases` (n,), fc2 `columns` (D, n).

    constant (D,): what the units contribute to the output, which the bias of fc2 takes back. Raises ValueError if there
    are fewer than n spare units.
    """
    weight, column = weights[f"{stream}.mlp.fc1.weight"], weights[f"{stream}.mlp.fc2.weight"]
    spare = np.flatnonzero(~column.any(axis=0))[: len(rows)]
    if len(spare) < len(rows):
        raise ValueError(f"{stream} has {len(spare)} spare units, not {len(rows)}")
    weight[spare], weights[f"{stream}.mlp.fc1.bias"][spare], column[:, spare] = rows, biases, columns
    weights[f"{stream}.mlp.fc2.bias"] -= constant
