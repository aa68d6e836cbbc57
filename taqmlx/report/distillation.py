"""Distillation of the whole model: its error before and after, moved codes, and time."""

from taqmlx.numerics.quality import to_decibels
from taqmlx.planning.documents import ModelReport
from taqmlx.report.runs import Benchmarks, format_seconds
from taqmlx.report.tables import format_fixed

STAGE = "distil"
KEPT = {
    "distilled": "the distilled model",
    "blocks": "the blocks before distillation, which have the lower error on held-out points",
}


def describe_distillation(report: ModelReport | None, benchmarks: Benchmarks) -> list[tuple[str, str]]:
    """Summary of a distillation report as (term, text); empty without a report."""
    if report is None:
        return []
    before, after = (to_decibels(1, report["errors"][name]) for name in ("blocks", "distilled"))
    points, moved, losses = report["points"], report["moved_codes"], report["loss"]["values"]
    pairs = [
        (
            "Guided velocity SNR",
            f"{format_fixed(before, 2)} dB before, {format_fixed(after, 2)} dB after distillation, on"
            f" {points['held_out']:,} points of held-out prompts; {points['training']:,} training points",
        ),
        ("Kept", KEPT[report["chosen"]]),
    ]
    if moved:
        most = max(moved, key=moved.__getitem__)
        mean = sum(moved.values()) / len(moved)
        pairs.append(
            (
                "Codes moved",
                f"{format_fixed(100 * mean, 2)} %, the mean of {len(moved)} layers; most in {most},"
                f" {format_fixed(100 * moved[most], 2)} %",
            )
        )
    if losses:
        pairs.append(("Loss", f"{losses[0]:.3g} at the start, {losses[-1]:.3g} at the end"))
    seconds = [float(row["s"]) for row in benchmarks.get(STAGE, [])]
    return [*pairs, *([("Time", format_seconds(sum(seconds)))] if seconds else [])]
