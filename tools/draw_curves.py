"""Draw docs/pictures/curves.png: quality by prompts, captured points, points of the statistics, and iterations.

All numbers are from docs/numbers.json, which the tables of the documents are filled from. The file has the digest of
these groups, so that a test finds a picture of older numbers.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from matplotlib.transforms import ScaledTranslation

from taqmlx.plots.style import BLACK, BLUE, DASHES, DPI, GREEN, GREY, RED, create_figure, styled
from taqmlx.store.files import read_plain_json, write_atomically

GROUPS = ("calibration", "statistics_points", "iterations")
NUMBERS, PICTURE = Path("docs/numbers.json"), Path("docs/pictures/curves.png")
GUIDANCE, PROMPTS, CAPTURED = "3", 256, 1024  # of the cells that differ in one setting from the middle one
ENGINES = {"gptq": ("GPTQ", BLUE), "distilled": ("distilled", RED)}
MODELS = {"embedded": BLACK, "embedded-hard": GREEN}
BLOCKS = {"mm_01": BLUE, "mm_03": RED}
STREAMS = dict(zip(("image", "text"), DASHES, strict=False))
APART = 2.0  # points between the intervals of two lines at one setting
LATENT = "latent SNR of the median picture (dB)"


def digest_groups(numbers: dict[str, Any]) -> str:
    """SHA-256 of the groups that are drawn."""
    groups = {name: numbers[name] for name in GROUPS}
    return hashlib.sha256(json.dumps(groups, sort_keys=True).encode()).hexdigest()


class Point(NamedTuple):
    """A measured value at a setting, with its 95 % interval if it has one."""

    setting: float
    value: float
    interval: tuple[float, float] | None = None


def list_calibration(numbers: dict[str, Any], engine: str, varied: str) -> list[Point]:
    """Median SNR of an engine over `varied`, `prompts` or `captured`, at the middle value of the other setting."""
    middle = {"prompts": PROMPTS, "captured": CAPTURED, "guidance": GUIDANCE}
    del middle[varied]
    cells = [c for c in numbers["calibration"]["cells"] if all(c[key] == value for key, value in middle.items())]
    medians = [(cell[varied], cell[engine]["median"]) for cell in cells]
    return sorted(Point(setting, found["value"], tuple(found["interval_95"])) for setting, found in medians)


def list_statistics(numbers: dict[str, Any], model: str) -> list[Point]:
    """Difference of the SNR with 8-bit inputs to that with the step sizes of most points, over points."""
    rows = [row for row in numbers["statistics_points"]["models"][model] if "a8" in row]
    found = [(row["points"], row["a8"]["difference"]) for row in rows]
    return [Point(points, own["value"], tuple(own["interval_95"])) for points, own in found]


def list_iterations(numbers: dict[str, Any], block: str, stream: str) -> list[Point]:
    """SNR of one output of a block on held-out points, over iterations from GPTQ's codes."""
    place = list(STREAMS).index(stream)
    found = numbers["iterations"]["blocks"][block]
    return sorted(Point(int(key), values[place]) for key, values in found.items() if key.isdigit())


def draw_curve(
    axes: Axes, points: Sequence[Point], label: str, colour: str, dashes: str = "-", moved: float = 0.0
) -> None:
    """Plot points, joined, with a vertical line for each interval, all `moved` points (1/72 inch) to the right."""
    settings, values = [point.setting for point in points], [point.value for point in points]
    place = axes.transData + ScaledTranslation(moved / 72, 0, axes.figure.dpi_scale_trans)
    axes.plot(settings, values, color=colour, linestyle=dashes, marker="o", markersize=3, label=label, transform=place)
    axes.update_datalim(list(zip(settings, values, strict=True)))  # transformed artists do not update the limits
    for point in points:
        if point.interval:
            axes.plot([point.setting] * 2, point.interval, color=colour, linewidth=1, transform=place)
            axes.update_datalim([(point.setting, end) for end in point.interval])


def finish_axes(axes: Axes, title: str, across: str, up: str) -> None:
    """Label the axes; the settings that were measured are the ticks of a logarithmic axis."""
    settings = sorted({float(x) for line in axes.lines for x in line.get_xdata()})
    axes.set(title=title, xlabel=across, ylabel=up, xscale="log")
    axes.xaxis.set_major_locator(FixedLocator(settings))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.autoscale_view()
    axes.legend()


@styled
def draw_curves(numbers: dict[str, Any]) -> Figure:
    """The four panels."""
    figure = create_figure("Quality by what a run is given. Vertical lines: 95 % intervals", 6.2)
    prompts, captured, statistics, iterations = figure.subplots(2, 2).flat
    for axes, varied in ((prompts, "prompts"), (captured, "captured")):
        for side, (engine, (label, colour)) in zip((-1, 1), ENGINES.items(), strict=True):
            draw_curve(axes, list_calibration(numbers, engine, varied), label, colour, moved=side * APART / 2)
    for side, (model, colour) in zip((-1, 1), MODELS.items(), strict=True):
        draw_curve(statistics, list_statistics(numbers, model), model, colour, moved=side * APART / 2)
    statistics.axhline(0, color=GREY, linewidth=0.6)
    for block, colour in BLOCKS.items():
        for stream, dashes in STREAMS.items():
            draw_curve(iterations, list_iterations(numbers, block, stream), f"{block}, {stream}", colour, dashes)
    finish_axes(prompts, "Distinct prompts", f"prompts of the trajectories; {CAPTURED:,} captured points", LATENT)
    finish_axes(captured, "Captured points", f"captured points; {PROMPTS} prompts", LATENT)
    finish_axes(
        statistics, "Points of the statistics", "points", "median latent SNR (dB),\nless that of the most points"
    )
    finish_axes(iterations, "Learning of a block", "iterations from GPTQ's codes", "SNR on held-out points (dB)")
    return figure


@styled
def main(arguments: argparse.Namespace) -> None:
    numbers = read_plain_json(arguments.numbers)
    figure = draw_curves(numbers)
    metadata = {"Software": None, "Title": arguments.out.stem, "Source": digest_groups(numbers)}
    write_atomically(arguments.out, partial(figure.savefig, dpi=DPI, format="png", metadata=metadata))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=Path, default=NUMBERS, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=PICTURE, help="default: %(default)s")
    main(parser.parse_args())
