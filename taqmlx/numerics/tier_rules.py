"""Rules that choose the fewest bits of a layer input at each noise level."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from taqmlx.numerics.tiers import take_by_threshold, take_fewest, to_decibels
from taqmlx.planning.layer_rules import MEASURED_POLICIES
from taqmlx.planning.stages import WriteMultitier


class Evidence(NamedTuple):
    """Measurements of a layer with a quantized input, at the config's K noise levels.

    own, policy: bits and policy in the config; channels float32 (K, in): absmax of each channel of the quantizer's
    input; errors: relative errors (K,) by bits; clips and inside: shares by bits, empty where nothing was measured;
    is_shifted: True if a shift is subtracted.
    """

    own: int
    policy: str
    channels: np.ndarray
    errors: Mapping[int, np.ndarray]
    clips: Mapping[int, float]
    inside: Mapping[int, float]
    is_shifted: bool


def choose_bits(evidence: Evidence, sigmas: Sequence[float], parameters: WriteMultitier) -> tuple[np.ndarray, str]:
    """Bits of a layer, int (K,), by the rule in `parameters`, at most its own bits; and a short reason."""
    bits, reason = RULES[parameters.multitier_rule](evidence, sigmas, parameters)
    bits = np.minimum(bits, evidence.own)
    if evidence.policy in MEASURED_POLICIES and np.ptp(bits):
        kept = np.full_like(bits, evidence.own)
        return (
            kept,
            f"{evidence.policy} step sizes have no table of bits: {evidence.own} bits are kept; otherwise {reason}",
        )
    return bits, reason


def choose_measured(evidence: Evidence, sigmas: Sequence[float], parameters: WriteMultitier) -> tuple[np.ndarray, str]:
    """Fewest bits (K,) with a measured error in the block output within the budget."""
    if not evidence.errors:
        return np.full(len(sigmas), evidence.own), "nothing was measured for it"
    budget = parameters.multitier_budget
    bits = take_fewest(evidence.errors, budget)
    left = to_decibels([evidence.errors[b][k] for k, b in enumerate(bits)])
    misses = int((left < budget).sum())
    missed = f"; {misses} of {len(sigmas)} levels miss the {budget:g} dB" if misses else ""
    return bits, explain_most(bits, evidence.errors, sigmas) + missed


def explain_most(bits: np.ndarray, errors: Mapping[int, np.ndarray], sigmas: Sequence[float]) -> str:
    """Reason for the level with the most of `bits` (K,): the error that fewer bits would leave."""
    most, places = int(bits.max()), np.flatnonzero(bits == bits.max())
    shown = max((b for b in errors if b < most), default=most)
    worst = places[np.argmax(errors[shown][places])]
    leave = f"leave an error {to_decibels(errors[shown][worst]):.1f} dB below the output at sigma {sigmas[worst]:.2f}"
    return f"{most} bits at most: {shown} {leave}" if shown < most else f"{most} bits {leave} and less elsewhere"


def choose_by_threshold(
    evidence: Evidence, sigmas: Sequence[float], parameters: WriteMultitier
) -> tuple[np.ndarray, str]:
    """Bits (K,) by the absmax of the quantizer's input, after the shift if there is one."""
    magnitudes = evidence.channels.max(axis=1)
    thresholds = parameters.multitier_thresholds["shifted" if evidence.is_shifted else "plain"]
    after = " after the shift" if evidence.is_shifted else ""
    reason = f"largest magnitude {magnitudes.min():.2f} to {magnitudes.max():.2f}{after}"
    return take_by_threshold(magnitudes, thresholds), reason


RULES = {"measured": choose_measured, "thresholds": choose_by_threshold}
