"""Absmax of every layer input at one step."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from taqmlx.plots.inputs import (
    ROLES,
    LayerName,
    find_nearest,
    list_block_names,
    list_outside,
    list_stream_names,
    parse_names,
    select,
    shorten,
)
from taqmlx.plots.style import STREAMS, create_figure, is_wide, label_blocks, styled

GROUP = 0.8  # share of a block's width filled by its bars


@styled
def draw_snapshot(
    steps: Sequence[int], sigmas: Sequence[float], absmax: Mapping[str, Sequence[float]], wanted: int
) -> Figure:
    """Plot bars of `absmax` (S values by input) at the step nearest to `wanted`, one panel per role."""
    index = find_nearest(steps, wanted)
    places = parse_names(absmax)
    values = {name: float(series[index]) for name, series in absmax.items()}
    figure = create_figure(name_snapshot(steps, sigmas, wanted), 7.2)
    grid = figure.add_gridspec(3, 2, height_ratios=[2, 2, 1.6])
    for panel, role in enumerate(ROLES):
        draw_role(figure.add_subplot(grid[panel // 2, panel % 2]), places, values, role)
    draw_outside(figure.add_subplot(grid[2, :]), list_outside(places), values)
    shown = [*list_stream_names(places), "shared"]
    titles = {"shared": "outside the blocks"}
    handles = [Patch(color=STREAMS[stream], label=titles.get(stream, f"{stream} stream")) for stream in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def name_snapshot(steps: Sequence[int], sigmas: Sequence[float], wanted: int) -> str:
    """Figure title with the step shown; it names the requested step if that differs."""
    index = find_nearest(steps, wanted)
    title = f"Absmax of every layer input at step {steps[index]}, sigma {sigmas[index]:.3g}"
    return title if steps[index] == wanted else f"{title} (nearest observed to step {wanted})"


def draw_role(axes: Axes, places: Sequence[LayerName], values: Mapping[str, float], role: str) -> None:
    """Plot bars by block, one per stream."""
    blocks, streams = list_block_names(places), list_stream_names(places)
    width = GROUP / max(len(streams), 1)
    heights = []
    for number, stream in enumerate(streams):
        found = select(places, stream, role)
        at = [blocks.index(place.block) + (number - (len(streams) - 1) / 2) * width for place in found]
        heights += [values[place.name] for place in found]
        axes.bar(at, [values[place.name] for place in found], width, color=STREAMS[stream])
    scale = choose_scale(heights)
    axes.set_yscale(scale)
    axes.set_title(f"input of {ROLES[role]}")
    axes.set_ylabel("absmax (activation units" + (", log)" if scale == "log" else ")"))
    label_blocks(axes, blocks)


def draw_outside(axes: Axes, names: Sequence[str], values: Mapping[str, float]) -> None:
    """Plot horizontal bars of the inputs outside the blocks."""
    heights = [values[name] for name in names]
    axes.barh(range(len(names)), heights, color=STREAMS["shared"])
    axes.set_xscale(choose_scale(heights))
    axes.set_yticks(range(len(names)), labels=[shorten(name) for name in names])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="absmax (activation units)", ylabel="input", title="inputs outside the blocks")


def choose_scale(heights: Sequence[float]) -> str:
    """Logarithmic scale if one bar would make the others invisible."""
    return "log" if is_wide(heights) else "linear"
