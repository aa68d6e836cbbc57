"""Largest quantization errors, described in sentences."""

import math

from taqmlx.report.layers import find_worst
from taqmlx.report.measures import LATENTS, find
from taqmlx.report.overview import name_short
from taqmlx.report.tables import Facts, format_fixed


def list_troubles(
    fid: Facts, subject: str | None, blocks: list[Facts], weights: list[Facts], inputs: list[Facts]
) -> list[tuple[str, str]]:
    """Worst block, weight, input, step and picture, where measured, as (place, description)."""
    found = [describe_block(blocks), describe_weight(weights), describe_input(inputs)]
    if subject:
        found += [describe_step(fid["variants"][subject]), describe_picture(fid["variants"][subject])]
    return [trouble for trouble in found if trouble]


def describe_block(blocks: list[Facts]) -> tuple[str, str] | None:
    """Block and stream with the lowest SNR."""
    worst = find_worst(blocks, "now")
    return None if worst is None else (f"Block {worst['name']}", f"output SNR {format_fixed(worst['now'], 1)} dB")


def describe_weight(weights: list[Facts]) -> tuple[str, str] | None:
    """Weight whose own quantization causes the largest velocity error."""
    worst = find_worst(weights, "velocity")
    return (
        None
        if worst is None
        else (
            f"Weight {worst['name']}",
            f"velocity SNR {format_fixed(worst['velocity'], 1)} dB with only this weight quantized (RTN) to"
            f" {worst['bits']} bits",
        )
    )


def describe_input(inputs: list[Facts]) -> tuple[str, str] | None:
    """Input whose quantization to 8 bits causes the largest error of its block."""
    worst = find_worst([fact | {"at_8": fact["at"].get("8")} for fact in inputs], "at_8")
    return (
        None
        if worst is None
        else (
            f"Input of {worst['name']}",
            f"block output SNR {format_fixed(worst['at_8'], 1)} dB at the worst noise level with only this input"
            " quantized to 8 bits",
        )
    )


def describe_step(variant: Facts) -> tuple[str, str] | None:
    """Step with the largest teacher-forced error."""
    growth = variant["error_growth"]
    if growth is None:
        return None
    ratios = [math.inf if value is None else value for value in growth["latent_snr_db"]["teacher_forced"]["median"]]
    step = min(range(len(ratios)), key=ratios.__getitem__)
    return (
        f"Step {step + 1} of {len(ratios)}",
        f"largest error of {name_short(variant)}, from sigma {growth['sigmas'][step]:.3f} to"
        f" {growth['sigmas'][step + 1]:.3f}: latent SNR {format_fixed(ratios[step], 1)} dB after this step alone",
    )


def describe_picture(variant: Facts) -> tuple[str, str] | None:
    """Picture with the lowest latent SNR."""
    found = find(variant, LATENTS)
    if found is None or found["worst"] is None:
        return None
    return (
        "The worst picture",
        f"latent SNR {format_fixed(found['worst'], 1)} dB; the median picture has"
        f" {format_fixed(found['median'], 1)} dB",
    )
