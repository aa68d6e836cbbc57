"""Outliers of the layer inputs of several models, by role and relative depth."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from taqmlx.plots.inputs import ROLES, LayerName, parse_names
from taqmlx.plots.style import NAMED, create_figure, styled

MEASURES = {
    "absmax": "absmax (activation units)",
    "spread": "largest over median channel",
    "drift": "drift over sigma",
    "offset": "offset / absmax",
}
LOGARITHMIC = ("absmax", "spread")
SPARSE = ("offset",)  # known of a few blocks only, so not joined by lines
STREAMS = {"image": ("o", "-"), "text": ("s", "--")}

# measures by input name, by model
Models = Mapping[str, Mapping[str, Mapping[str, float]]]


@styled
def draw_outliers(models: Models) -> Figure:
    """Plot every measure of the inputs in blocks, a row each, against the depth of the block, a column per role."""
    figure = create_figure("Outliers of the layer inputs, by role and depth of the block", 9.5)
    panels = figure.subplots(len(MEASURES), len(ROLES), sharex=True, sharey="row")
    colours = dict(zip(models, NAMED, strict=False))
    for row, (measure, label) in zip(panels, MEASURES.items(), strict=True):
        row[0].set_ylabel(label)
        for axes, role in zip(row, ROLES, strict=True):
            for name, inputs in models.items():
                draw_role(axes, inputs, measure, role, colours[name])
            if measure in LOGARITHMIC:
                axes.set_yscale("log")
    for top, bottom, title in zip(panels[0], panels[-1], ROLES.values(), strict=True):
        top.set_title(title)
        bottom.set_xlabel("depth of the block")
    names = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    streams = [
        Line2D([], [], color="black", marker=m, markersize=3, linestyle=d, label=s) for s, (m, d) in STREAMS.items()
    ]
    figure.legend(handles=[*names, *streams], loc="outside lower center", ncols=len(names) + len(streams))
    return figure


def draw_role(axes: Axes, inputs: Mapping[str, Mapping[str, float]], measure: str, role: str, colour: str) -> None:
    """Plot a measure of the inputs of one role and model, a line per stream; inputs without it are left out."""
    places = parse_names(inputs)
    depths = place_blocks(places)
    for stream, (mark, dash) in STREAMS.items():
        own = sorted(p for p in places if (p.stream, p.role) == (stream, role) and measure in inputs[p.name])
        if own:
            values = [inputs[place.name][measure] for place in own]
            line = "" if measure in SPARSE else dash
            axes.plot([depths[p.block] for p in own], values, color=colour, marker=mark, markersize=3, linestyle=line)


def place_blocks(places: Sequence[LayerName]) -> dict[str, float]:
    """Depth of each block, from 0 for the first to 1 for the last."""
    blocks = sorted({place.block for place in places if place.block})
    return {block: index / max(1, len(blocks) - 1) for index, block in enumerate(blocks)}
