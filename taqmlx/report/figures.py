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
        " all configurations of nn.quantize. The title gives the number of pictures, the steps and the guidance. The"
        " arrow points to the nn.quantize size of equal quality: its length is the bits saved.",
    ),
    "picture_grid": (
        "pictures",
        "The same prompts and seeds in every variant",
        "Below each quantized variant is its difference from full precision, multiplied by the factor in its"
        " label, around grey. Half of the columns are evenly spaced; those marked worst have the largest"
        " difference in the worst variant.",
    ),
    "error_growth": (
        "growth",
        "Error growth along the trajectory",
        "Median latent SNR of the pictures after each step: free-running, and teacher-forced, where each step"
        " starts from the full-precision state. Lower is further from full precision.",
    ),
    "size_quality": (
        "growth",
        "Size against quality",
        "Bits per weight against the distance of each picture (latent SNR, higher is better) and of the"
        " distributions (FID, lower is better), with 95 % intervals.",
    ),
    "fold_ranges": (
        "folds",
        "Channel ranges before and after folds",
        "Absmax of each channel of an input before and after a fold, for the folds of each kind with the largest gain,"
        " with the largest value of the grid and half a step.",
    ),
    "fold_spread": (
        "folds",
        "Unused bits before and after every fold",
        "Bits of its grid that each channel of an input leaves unused, by block: a line spans most channels, its"
        " marker is the median one. At 0 a channel uses the whole grid.",
    ),
    "block_errors": (
        "blocks",
        "Error of every block",
        "SNR of each block's output by rounding method of its weights, in dB: higher is better. Hollow markers:"
        " quantized inputs.",
    ),
    "layer_errors": (
        "blocks",
        "Error of every layer",
        "SNR of the block's output with one layer quantized: its weight to 4 bits, or its input to 8 bits, in dB:"
        " higher is better. Bright layers need more bits.",
    ),
    "adaround_convergence": (
        "blocks",
        "AdaRound convergence",
        "Loss of every block over the iterations; it rises again as the regularizer pushes weights to a level.",
    ),
    "heatmap_absmax": (
        "activations",
        "Absmax",
        "Absmax of every layer input by noise level.",
    ),
    "heatmap_variability": (
        "activations",
        "Variability",
        "Absmax of every layer input by noise level, relative to its geometric mean, in bits.",
    ),
    "heatmap_negative_share": (
        "activations",
        "Negative share",
        "Share of negative values of every layer input by noise level.",
    ),
    "most_variable_layers": (
        "activations",
        "Most variable inputs",
        "Absmax over the noise levels, relative to its minimum. A ratio of 2 costs a static step size one bit.",
    ),
    "largest_layers": (
        "activations",
        "Inputs with the largest absmax",
        "Absmax over the noise levels.",
    ),
    "image_fc1": (
        "activations",
        "Inputs of the image stream's fc1",
        "Absmax over the noise levels, by block.",
    ),
    "text_mlp": (
        "activations",
        "Inputs of the text stream's feed-forward layers",
        "Absmax over the noise levels, by block.",
    ),
    "fc2_shift": (
        "activations",
        "Channel offsets after GELU",
        "Middle of a channel's range over the noise levels, maximum and mean over channels; markers at the"
        " edge are the static shift.",
    ),
    "channel_ranges": (
        "activations",
        "Channel ranges",
        "Minimum to maximum of each channel, for the inputs with the largest channel spread; outliers are marked.",
    ),
    "distributions": (
        "activations",
        "Distributions after GELU",
        "Inputs of fc2 before and after shift and migration, with the quantization grid.",
    ),
    "absmax_step_": (
        "snapshots",
        "Absmax at step",
        "Absmax of every layer input at one step.",
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
