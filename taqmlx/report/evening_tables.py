"""Tables of docs/evening.md: work of the presets, hours by device, points of the statistics, and course of learning."""

from collections.abc import Iterable

from taqmlx.planning.stages import PARAMETERS
from taqmlx.report.numbers import Numbers
from taqmlx.report.study_tables import tabulate
from taqmlx.report.tables import Facts


def show_work(numbers: Numbers) -> str:
    """Forwards and PFLOP of each stage, by preset."""
    presets: dict[str, Facts] = numbers["work"]["presets"]
    columns = [f"`{name}`, {what}" for name in presets for what in ("forwards", "PFLOP")]
    stages = next(iter(presets.values()))["pflop"]

    def show(preset: Facts, stage: str) -> list[str]:
        forwards = sum(preset["forwards"].values()) if stage == "total" else preset["forwards"][stage]
        return [f"{forwards:,}" if forwards else "", f"{preset['pflop'][stage]:.1f}"]

    rows = [[stage, *(cell for own in presets.values() for cell in show(own, stage))] for stage in order_stages(stages)]
    return tabulate(["", *columns], rows)


def order_stages(names: Iterable[str]) -> list[str]:
    """Stages in the order in which they run, then the total."""
    ranks = {name: rank for rank, name in enumerate(PARAMETERS)}
    return sorted(names, key=lambda name: ranks.get(name, len(ranks)))


def show_devices(numbers: Numbers) -> str:
    """Estimated hours of each preset by device."""
    presets: dict[str, Facts] = numbers["work"]["presets"]
    devices = sorted(next(iter(presets.values()))["hours"])
    rows = [[name, *(f"{own['hours'][name]:.1f}" for own in presets.values())] for name in devices]
    return tabulate(["hours, estimated", *(f"`{name}`" for name in presets)], rows)


def show_statistics_points(numbers: Numbers) -> str:
    """Step sizes and SNR of pictures by the number of observed points, of each model."""
    rows = []
    for model, counts in numbers["statistics_points"]["models"].items():
        for found in counts:
            steps = found.get("step_over_largest")
            shown = f"{steps['median']:.2f} ({steps['p5']:.2f} to {steps['p95']:.2f})" if steps else ""
            drawn = [cell for way in ("a8", "w4a8") for cell in show_paired(found.get(way))]
            rows.append([f"`{model}`", f"{found['points']:,}", shown, *drawn])
    ways = [f"{way}: {what}" for way in ("A8", "W4A8") for what in ("median, dB", "difference, dB")]
    return tabulate(["model", "points", "step size over that of 1,600", *ways], rows)


def show_paired(found: Facts | None) -> list[str]:
    """Median of a way, and its median paired difference with interval; two empty cells for None."""
    if not found:
        return ["", ""]
    low, high = found["difference"]["interval_95"]
    return [f"{found['median']:.1f}", f"{found['difference']['value']:+.2f} ({low:+.2f} to {high:+.2f})"]


def show_stopping(numbers: Numbers) -> str:
    """Held-out SNR of blocks in the course of learning."""
    places = (1, 4, 8, 12, 14, 16, 18, 20)
    rows = [
        [name, f"{own['gptq']:.1f}", *(f"{own['by_twentieth'][place - 1]:.1f}" for place in places)]
        for name, own in numbers["stopping"]["blocks"].items()
    ]
    return tabulate(["block", "GPTQ", *(f"{place * 5} %" for place in places)], rows)
