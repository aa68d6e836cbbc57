"""Plots of the variants' quality: along the trajectory, and against size."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from taqmlx.plots.style import GREY, PALE, create_figure, cycle_styles, styled, thin, write_note

Variants = Mapping[str, Mapping[str, Any]]
RUNS = {
    "free_running": "free-running: errors accumulate",
    "teacher_forced": "teacher-forced: error of each step alone",
}
SNR, FID = "latent SNR to full precision (dB)", "FID to full precision"
APART = 4  # spacing in points between variants of equal size
SAME_SIZE = 0.01  # relative difference below which sizes are drawn side by side
MARKERS = {
    16: ("o", "unquantized inputs"),
    8: ("s", "8-bit inputs"),
    6: ("D", "6-bit inputs"),
    4: ("^", "4-bit inputs"),
}
MIXED = ("P", "mixed-width inputs")
MEGABYTE = 1e6


@styled
def draw_error_growth(variants: Variants) -> Figure:
    """Plot latent SNR after each step by variant, with 95 % intervals, free-running and teacher-forced."""
    grown = {name: about for name, about in variants.items() if about.get("error_growth")}
    figure = create_figure("Latent error relative to full precision after each step", 4.3 + 0.1 * len(grown))
    panels = figure.subplots(1, len(RUNS), sharey=True)
    for axes, (run, title) in zip(panels, RUNS.items(), strict=True):
        axes.set(title=title, xlabel="step", ylabel=SNR)
        for about, style in zip(grown.values(), cycle_styles(len(grown)), strict=True):
            draw_growth(axes, about["error_growth"]["latent_snr_db"][run], style)
        if grown:
            add_sigmas(axes, next(iter(grown.values()))["error_growth"]["sigmas"])
        else:
            write_note(axes, "only full precision was drawn")
    handles = [
        Line2D([], [], label=wrap(about["title"]), **style)
        for about, style in zip(grown.values(), cycle_styles(len(grown)), strict=True)
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, title="median; band: 95 % interval")
    return figure


def draw_growth(axes: Axes, growth: Mapping[str, Any], style: Mapping[str, str]) -> None:
    """Plot the median after each step with its interval; steps with an infinite median are left out."""
    median = to_array(growth["median"])
    low, high = to_array(growth["interval_95"]).reshape(-1, 2).T
    steps = np.arange(1, len(median) + 1)
    axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(steps, median, **style)


def add_sigmas(axes: Axes, sigmas: Sequence[float]) -> None:
    """Add a top axis with the noise level after each step."""
    places = [step for step in thin(len(sigmas), 8) if step > 0]
    top = axes.secondary_xaxis("top")
    top.set_xticks(places, labels=[f"{sigmas[step]:.2f}" for step in places])
    top.set_xlabel("sigma after the step")
    axes.set_xlim(0.5, len(sigmas) - 0.5)


def to_array(values: Any) -> np.ndarray:
    """Convert to float64, with NaN for null."""
    return np.array(values, np.float64)


@styled
def draw_size_quality(variants: Variants, floor: Mapping[str, Any]) -> Figure:
    """Plot latent SNR and FID against size, with 95 % intervals; floor: full precision with other seeds, for scale."""
    sized = {name: about for name, about in variants.items() if about.get("size")}
    figure = create_figure("Size of the weights against the quality of the pictures", 4.6 + 0.09 * len(sized))
    panels = figure.subplots(1, 2)
    styles = dict(zip(sized, cycle_styles(len(sized)), strict=True))
    draw_quality(panels[0], sized, {name: take_snr(about) for name, about in sized.items()}, styles)
    draw_quality(panels[1], sized, {name: take_fid(about) for name, about in sized.items()}, styles)
    panels[0].set(ylabel=SNR + ", higher is better", title="distance of each picture")
    panels[1].set(ylabel=FID + ", lower is better", title="distance of the distributions")
    draw_floor(panels[1], floor.get("fid_to_full_precision"))
    for axes in panels:
        axes.set_xlabel(
            "size (bits per weight, scales included)\nvariants of equal size are side by side over a pale line"
        )
    handles = [
        Line2D([], [], color=styles[name]["color"], marker=choose_marker(about["size"])[0], linestyle="",
               fillstyle=choose_fill(styles[name]), label=describe_variant(about))
        for name, about in sized.items()
    ]  # fmt: skip
    marks = {choose_marker(about["size"]): None for about in sized.values()}
    handles += [Line2D([], [], color=GREY, marker=mark, linestyle="", label=label) for mark, label in marks]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, title="line: 95 % interval; ∞: no difference")
    return figure


Measured = tuple[float, float, float] | None


def take_snr(about: Mapping[str, Any]) -> Measured:
    """Median and interval of the latent SNR; None if infinite or not measured."""
    found = (about.get("paired") or {}).get("latent_snr_db")
    return as_measured(found["median"], found["interval_95"]) if found else None


def take_fid(about: Mapping[str, Any]) -> Measured:
    """Value and interval of FID to full precision; None if not measured."""
    found = about.get("fid_to_full_precision")
    return as_measured(found["value"], found["interval_95"]) if found else None


def as_measured(value: float | None, interval: Sequence[float | None] | None) -> Measured:
    """Return (value, low, high); a null end of the interval becomes the value. None if the value is None."""
    if value is None:
        return None
    low, high = interval or (None, None)
    return value, value if low is None else min(low, value), value if high is None else max(high, value)


def spread_sizes(sizes: Mapping[str, float]) -> dict[str, float]:
    """Horizontal offset of each variant, in positions: variants of equal size are drawn side by side."""
    groups: list[list[str]] = []
    for name in sorted(sizes, key=lambda name: sizes[name]):
        same = groups and sizes[name] <= sizes[groups[-1][0]] * (1 + SAME_SIZE)
        groups[-1].append(name) if same else groups.append([name])
    return {name: index - (len(group) - 1) / 2 for group in groups for index, name in enumerate(group)}


def draw_quality(axes: Axes, sized: Variants, measured: Mapping[str, Measured], styles: Mapping[str, Any]) -> None:
    """Plot a marker with its interval over its size for each variant with a value, and a pale line at each size."""
    sizes = {name: about["size"]["bits_per_weight"] for name, about in sized.items()}
    if not any(measured.values()):
        write_note(axes, "no variant has a finite value and a size")
        return
    places = spread_sizes({name: sizes[name] for name, found in measured.items() if found})
    for name, place in places.items():
        value, low, high = measured[name]
        moved = axes.transData + ScaledTranslation(place * APART / 72, 0, axes.figure.dpi_scale_trans)
        shape = {"marker": choose_marker(sized[name]["size"])[0], "fillstyle": choose_fill(styles[name])}
        axes.axvline(sizes[name], color=PALE, linewidth=4, zorder=0)
        axes.update_datalim([(sizes[name], low), (sizes[name], high)])  # transformed artists do not update the limits
        axes.plot([sizes[name]] * 2, [low, high], color=styles[name]["color"], linewidth=1, transform=moved)
        axes.plot(sizes[name], value, color=styles[name]["color"], markersize=5, transform=moved, **shape)
    for name in measured.keys() - places.keys():
        axes.text(sizes[name], 0.97, "∞", transform=axes.get_xaxis_transform(), ha="center", va="top")
    axes.autoscale_view()
    show_sizes(axes, sizes.values())


def show_sizes(axes: Axes, sizes: Collection[float]) -> None:
    """Set a logarithmic axis with plain numbers that covers every size."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(sizes) / 1.5, max(sizes) * 1.3)
    ticks = [bits for bits in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if min(sizes) / 1.5 <= bits <= max(sizes) * 1.3]
    axes.set_xticks(ticks, labels=[str(bits) for bits in ticks])
    axes.minorticks_off()
    axes.grid(visible=False, axis="x")


def draw_floor(axes: Axes, found: Mapping[str, Any] | None) -> None:
    """Plot full precision with other seeds: as a line if it is close to the axis range, else as text."""
    if not found:
        return
    value, text = found["value"], "full precision from other seeds"
    top = axes.get_ylim()[1]
    if value <= 1.3 * top:
        axes.axhline(value, color=GREY, linestyle="--", linewidth=0.8)
        at, where, place = (0.98, value), axes.get_yaxis_transform(), "bottom"
    else:
        axes.set_ylim(top=1.12 * top)
        at, where, place = (0.98, 0.97), axes.transAxes, "top"
        text += f": {value:.2g}, above the axis"
    axes.text(*at, text, transform=where, ha="right", va=place, color=GREY, fontsize=7)


def choose_marker(size: Mapping[str, Any]) -> tuple[str, str]:
    """Marker and legend text of the bit widths of a variant's inputs."""
    widths = [bits for bits in size["activation_bits"] if bits != 16] or [16]
    return MARKERS.get(widths[0], (MIXED[0], f"{widths[0]}-bit inputs")) if len(widths) == 1 else MIXED


def choose_fill(style: Mapping[str, str]) -> str:
    """Filled markers for the first eight colours, hollow ones for the next."""
    return "full" if style["linestyle"] == "-" else "none"


def describe_variant(about: Mapping[str, Any]) -> str:
    """Describe a variant and its size in one line."""
    size = about["size"]
    return wrap(f"{about['title']}: {size['bytes'] / MEGABYTE:.3g} MB, {size['bits_per_weight']:.3g} bits")


def wrap(text: str) -> str:
    """Wrap so that two labels fit side by side."""
    return "\n".join(textwrap.wrap(text, 62))
