"""Embedded plots: section, caption, and picture data as text."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from taqmlx.store.errors import UserError
from taqmlx.store.pictures import open_picture

# Plot name, or a common prefix of several: (section, title, caption).
PLOTS = {
    "frontier": (
        "frontier",
        "Quality against size",
        "Bits per weight over all linear layers against latent SNR of the median picture and of the lowest 5 %, beside"
        " everything nn.quantize gives. The title says how many pictures, steps and which guidance. The arrow leads to"
        " where nn.quantize has the same quality: its length is the bits saved.",
    ),
    "picture_grid": (
        "pictures",
        "The same prompts and seeds by every variant",
        "Below each quantized variant is its difference from full precision, magnified by the factor in its"
        " label around grey. Half the columns are spread over the pictures; those marked worst are what the"
        " worst variant changes most.",
    ),
    "error_growth": (
        "growth",
        "How the error grows along the trajectory",
        "Latent signal over error after each step, the median of the pictures: free-running, and with each"
        " step made from where full precision is. Lower is further from full precision.",
    ),
    "size_quality": (
        "growth",
        "Size against quality",
        "Bits a weight against the distance of each picture (latent SNR, higher is better) and of the"
        " distributions (FID, lower is better), with 95 % intervals.",
    ),
    "block_errors": (
        "blocks",
        "Error of every block",
        "How near each block's output is to full precision by each way of rounding its weights, in dB: higher is"
        " better. Hollow marks: with rounded inputs too.",
    ),
    "layer_errors": (
        "blocks",
        "Error of every layer",
        "What rounding one layer alone does to its block's output: its weight to 4 bits, and its input to 8"
        " bits, in dB of the output's power over the error: higher is better. Bright layers need more bits.",
    ),
    "adaround_convergence": (
        "blocks",
        "Learning the rounding",
        "The loss of every block over the iterations; it rises again as weights are pressed to a level.",
    ),
    "heatmap_absmax": (
        "activations",
        "Largest magnitude",
        "Layer by noise level: the largest magnitude it reads.",
    ),
    "heatmap_variability": (
        "activations",
        "Variability",
        "Layer by noise level: the largest magnitude against its own geometric mean, in bits.",
    ),
    "heatmap_negative_share": (
        "activations",
        "Negative share",
        "Layer by noise level: the share of values below 0.",
    ),
    "most_variable_layers": (
        "activations",
        "The inputs that change most",
        "Largest magnitude over the noise levels, relative to its own smallest. A ratio of 2 costs one step"
        " size for all levels a bit.",
    ),
    "largest_layers": (
        "activations",
        "The inputs with the largest values",
        "Largest magnitude over the noise levels.",
    ),
    "image_fc1": (
        "activations",
        "What fc1 of the image stream reads",
        "Largest magnitude over the noise levels, by block.",
    ),
    "text_mlp": (
        "activations",
        "What the feed-forward layers of the text stream read",
        "Largest magnitude over the noise levels, by block.",
    ),
    "fc2_shift": (
        "activations",
        "How far channels are off centre after GELU",
        "The middle of a channel's range over the noise levels, the largest and the mean of the channels;"
        " marks at the edge are the static shift that is subtracted.",
    ),
    "channel_ranges": (
        "activations",
        "Ranges of channels",
        "From the smallest to the largest value of each channel, of the inputs with the widest spread;"
        " outliers are marked.",
    ),
    "distributions": (
        "activations",
        "Distributions after GELU",
        "What fc2 reads before and after shift and migration, with the grid it is rounded to.",
    ),
    "absmax_step_": (
        "snapshots",
        "Largest magnitude at step",
        "Every layer's largest magnitude at one step.",
    ),
}


class Figure(NamedTuple):
    """A plot on the page; width and height in pixels."""

    name: str
    section: str
    title: str
    caption: str
    source: str
    width: int
    height: int


def embed_plots(paths: Sequence[Path]) -> dict[str, list[Figure]]:
    """Figures by section, in file order.

    Raises UserError for a file that is not a known plot, is damaged, or is another plot.
    """
    sections: dict[str, list[Figure]] = {section: [] for section, *_ in PLOTS.values()}
    for path in paths:
        figure = embed_plot(path)
        sections[figure.section].append(figure)
    return sections


def embed_plot(path: Path) -> Figure:
    """Embed one plot as a data URI."""
    key = next((key for key in PLOTS if path.stem == key or (key.endswith("_") and path.stem.startswith(key))), None)
    if key is None:
        raise UserError(f"{path} is a plot without a caption; describe {path.stem} in the report's figures")
    section, title, caption = PLOTS[key]
    with open_picture(path) as image:
        width, height = image.size
        drawn = getattr(image, "text", {}).get("Title")
    if drawn != path.stem:
        raise UserError(f"{path} is a picture of {drawn}, not {path.stem}; delete it and draw it again")
    data = path.read_bytes()
    number = path.stem.removeprefix(key).lstrip("0") or "0"
    full = f"{title} {number}" if key.endswith("_") else title
    return Figure(
        path.stem, section, full, caption, "data:image/png;base64," + base64.b64encode(data).decode(), width, height
    )
