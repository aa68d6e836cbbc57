"""Summary of chosen bits over layers and noise levels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from taqmlx.numerics.phases import group_by_phase
from taqmlx.numerics.tiers import TIERS

HIGHLY_VARIABLE = 2.0  # ratio of the largest to the smallest absmax over noise levels


def find_most_by_phase(bits: np.ndarray, sigmas: Sequence[float]) -> dict[str, int | None]:
    """Largest of the bits (K,) within each phase; None for a phase without a noise level."""
    return {name: int(own.max()) if own.size else None for name, own in group_by_phase(bits, sigmas).items()}


def is_highly_variable(magnitudes: np.ndarray) -> bool:
    """True if the absmax (K,) varies by more than a factor HIGHLY_VARIABLE over noise levels."""
    return bool(magnitudes.max() > HIGHLY_VARIABLE * magnitudes.min())


def summarise_bits(bits: Mapping[str, np.ndarray], channels: Mapping[str, int]) -> dict[str, Any]:
    """Counts, shares and lists of layers, from each layer's bits (K,) and number of input channels.

    A decision is one layer at one noise level. `uniform_bits` is the bit width required if it were the same for all.
    """
    table = np.array(list(bits.values()))  # (layers, K)
    if not table.size:
        return {"total_layers": 0, "total_decisions": 0}
    weights = np.array([channels[name] for name in bits], np.float64)
    tiers = sorted({*TIERS, *table.flat})
    counts = {int(tier): int((table == tier).sum()) for tier in tiers}
    summary = {
        "total_layers": len(table),
        "total_noise_levels": table.shape[1],
        "total_decisions": table.size,
        "switching_layers": [name for name, own in bits.items() if np.ptp(own)],
        "mean_bits": float(weights @ table.mean(axis=1) / weights.sum()),
        "uniform_bits": int(table.max()),
    }
    for tier, count in counts.items():
        summary[f"total_a{tier}"] = count
        summary[f"a{tier}_percentage"] = 100 * count / table.size
        summary[f"always_a{tier}"] = [name for name, own in bits.items() if np.all(own == tier)]
    return summary
