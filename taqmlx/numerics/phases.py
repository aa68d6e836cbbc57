"""Three phases of a trajectory, by noise level."""

from collections.abc import Sequence

import numpy as np

# Lowest and highest sigma of each phase. Both bounds of "mid" belong to it; a sigma above 1 is early.
PHASES = {"early": (0.7, 1.0), "mid": (0.3, 0.7), "late": (0.0, 0.3)}


def find_phase(sigma: float) -> str:
    """Phase of a noise level."""
    if sigma > PHASES["early"][0]:
        return "early"
    return "mid" if sigma >= PHASES["mid"][0] else "late"


def group_by_phase(values: Sequence[float] | np.ndarray, sigmas: Sequence[float]) -> dict[str, np.ndarray]:
    """`values` (K,) at `sigmas` (K,) grouped by phase; empty for a phase without a noise level."""
    phases = [find_phase(sigma) for sigma in sigmas]
    return {name: np.array([x for x, phase in zip(values, phases, strict=True) if phase == name]) for name in PHASES}
