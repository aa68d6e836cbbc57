"""Measures of a variant's pictures: where they are in the evaluation, and their format in the report."""

from typing import NamedTuple

from taqmlx.report.tables import NOTHING, Cell, Facts, format_fixed


class Measure(NamedTuple):
    """A column of the quality table: path of its value in a variant's entry, and its format and `unit`."""

    title: str
    path: tuple[str, ...]
    digits: int
    meaning: str
    scale: float = 1
    unit: str = ""


MEASURES = (
    Measure("FID to full precision", ("fid_to_full_precision",), 3, "lower is closer to full-precision pictures"),
    Measure("KID to full precision", ("kid_to_full_precision",), 3, "the same with another distance", 1000, "×10³"),
    Measure("CMMD to full precision", ("cmmd_to_full_precision",), 3, "the same with CLIP features"),
    Measure(
        "Latent SNR",
        ("paired", "latent_snr_db"),
        1,
        "final latents of the median picture; higher is closer to full precision",
        unit="dB",
    ),
    Measure(
        "Below 5 dB",
        ("paired", "turns_out_otherwise"),
        1,
        "share of pictures with a latent SNR below 5 dB; most show different content",
        100,
        "%",
    ),
    Measure("PSNR", ("paired", "psnr_db"), 1, "median over pictures; higher is closer to full precision", unit="dB"),
    Measure("SSIM", ("paired", "ssim"), 3, "median over pictures; 1 for equal pictures"),
    Measure("LPIPS", ("paired", "lpips"), 4, "median over pictures; 0 for equal pictures"),
    Measure(
        "Prompt accuracy",
        ("prompt_accuracy", "all"),
        1,
        "pictures that show their caption, by the classifier",
        100,
        "%",
    ),
    Measure("FID to real", ("fid_to_real",), 3, "lower is closer to real pictures"),
    Measure("KID to real", ("kid_to_real",), 3, "the same with another distance", 1000, "×10³"),
    Measure("CMMD to real", ("cmmd_to_real",), 3, "the same with CLIP features"),
)


DISTANCE, LATENTS, ACCURACY = MEASURES[0], MEASURES[3], MEASURES[8]


def find(described: Facts, measure: Measure) -> Facts | None:
    """Entry of a measure for a variant; None if it was not measured."""
    found: Facts | None = described
    for key in measure.path:
        found = (found or {}).get(key)
    return found


def show_measure(described: Facts, measure: Measure) -> Cell:
    """Value with its 95 % interval as note. A null value is a ratio to zero difference: exact."""
    found = find(described, measure)
    if found is None:
        return NOTHING
    value = found.get("value", found.get("median"))
    if value is None:
        return Cell("exact", note="nothing differs")
    return Cell(format_measure(value, measure), value, format_interval(found, measure))


def format_measure(value: float, measure: Measure) -> str:
    """Format a value of a measure in its unit."""
    return format_fixed(value * measure.scale, measure.digits)


def format_interval(found: Facts, measure: Measure) -> str:
    """Format a 95 % interval as `low to high`; a null end is exact."""
    ends = ("exact" if end is None else format_measure(end, measure) for end in found["interval_95"])
    return " to ".join(ends)
