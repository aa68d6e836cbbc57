"""Measured quality against size: `<results>/frontier.json`.

Each entry of `ways` has `name`, `title`, `bits_per_weight` over all linear layers, `ratios` (dB, one per picture), and
`median`, `p5` (dB) and `otherwise` (a share), each with `value` and `interval_95`. Entries of this project also have
`asked`, the requested size, and `bits_saved` for `median` and `p5`. `n` pictures of held-out captions were drawn in
`steps` with guidance `cfg`.
"""

import math
from itertools import accumulate
from pathlib import Path
from typing import cast

from taqmlx.planning.evaluation_documents import Frontier, Way
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json

FORMAT = {"format": "frontier", "version": 1}
PICTURES = {"format": "frontier-pictures", "version": 1}  # pictures of one job, before the comparison
UNROUNDED, ROUNDED = "w_a16", "w_a8"  # names of ours: inputs unquantized, inputs quantized per the quantization config


def read_frontier(path: Path) -> Frontier:
    """Read `path`. Raises UserError if it is missing, damaged, or of another format or version."""
    return cast(Frontier, read_json(path, **FORMAT))


def list_ours(frontier: Frontier) -> list[Way]:
    """Entries of this project, at every size."""
    return [way for way in frontier["ways"] if "asked" in way]


def list_plain(frontier: Frontier) -> list[Way]:
    """Entries made with `nn.quantize`."""
    return [way for way in frontier["ways"] if "asked" not in way]


def find_best(frontier: Frontier) -> list[Way]:
    """`nn.quantize` entries on the Pareto front of size and median quality, smallest first."""
    plain = sorted(list_plain(frontier), key=lambda way: (way["bits_per_weight"], -way["median"]["value"]))
    best = accumulate((way["median"]["value"] for way in plain), max, initial=-math.inf)
    return [way for way, before in zip(plain, best, strict=False) if way["median"]["value"] > before]


def find_size(frontier: Frontier, asked: float | None, path: Path) -> list[Way]:
    """Entries of this project at one size. Raises UserError if `path` has none."""
    found = [way for way in list_ours(frontier) if way["asked"] == asked]
    if not found:
        raise UserError(f"{path} has no size of {asked} bits per weight; delete it and run measure_frontier again")
    return found
