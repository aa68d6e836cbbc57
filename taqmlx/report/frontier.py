"""Quality against size: our sizes, the `nn.quantize` frontier, and the bits saved, the headline of the report."""

from collections.abc import Mapping
from typing import Any

from taqmlx.planning.evaluation_documents import Frontier, Interval, Quality, Way
from taqmlx.report.tables import NOTHING, Body, Cell, Column, Facts, Table, format_fixed, show_number
from taqmlx.store.frontier_file import ROUNDED, find_best, list_ours

SAVINGS = (
    ("median", "Bits saved", "median quality"),
    ("p5", "Bits saved, lowest 5 %", "quality of the lowest 5 %"),
)
COLUMNS = (
    Column("", is_number=False),
    Column("Bits per weight", meaning="over all linear layers, scales and zero points included"),
    Column("Median, dB", meaning="latent SNR of the median picture; higher is closer to full precision"),
    Column("Lowest 5 %, dB", meaning="5th percentile of the latent SNR"),
    Column("Below 5 dB, %", meaning="share of pictures with a latent SNR below 5 dB; most show different content"),
    Column("Bits saved, median", meaning="bits per weight of nn.quantize at the same median, minus ours"),
    Column("Bits saved, lowest 5 %", meaning="the same for the lowest 5 %"),
)
SAVED: tuple[Quality, ...] = ("median", "p5")


def tabulate_frontier(frontier: Frontier, asked: float | None) -> Table:
    """Table of our sizes, with size `asked` marked, and of the `nn.quantize` frontier."""
    ours = sorted(list_ours(frontier), key=lambda way: (way["bits_per_weight"], way["name"]))
    bodies = [
        Body([show_way(way, is_subject=way["asked"] == asked) for way in ours], "This project"),
        Body([show_way(way) for way in find_best(frontier)], "nn.quantize, the best at each size"),
    ]
    caption = f"Quality against size on {describe_setting(frontier)}, with 95 % intervals"
    return Table("frontier-table", caption, COLUMNS, bodies)


def describe_setting(measured: Mapping[str, Any]) -> str:
    """Describe the pictures that were measured."""
    return f"{measured['n']:,} pictures of held-out captions, {measured['steps']} steps, guidance {measured['cfg']:g}"


def show_way(way: Way, is_subject: bool = False) -> list[Cell]:
    """Row with size and quality of a configuration and, for ours, the bits saved."""
    saved = way.get("bits_saved", {})
    return [
        Cell(way["title"], mark="subject" if is_subject else ""),
        show_number(way["bits_per_weight"]),
        show_interval(way["median"], 1),
        show_interval(way["p5"], 1),
        show_interval(way["otherwise"], 1, scale=100),
        *(show_interval(saved[key], 2) if key in saved else NOTHING for key in SAVED),
    ]


def show_interval(found: Interval, digits: int, scale: float = 1) -> Cell:
    """Value with its 95 % interval as note."""
    return Cell(format_fixed(scale * found["value"], digits), found["value"], format_interval(found, digits, scale))


def format_interval(found: Interval, digits: int, scale: float = 1) -> str:
    """Format a 95 % interval as `low to high`."""
    return " to ".join(format_fixed(scale * end, digits) for end in found["interval_95"])


def describe_saving(saved: Facts | None) -> list[tuple[str, str, str]]:
    """Headline tiles as (title, value, note); empty if no size is configured."""
    if saved is None:
        return []
    own = saved["ways"][ROUNDED]
    size = f"{format_fixed(own['bits_per_weight'], 2)} bits per weight over all linear layers"
    return [
        (
            title,
            f"{format_fixed(own[key]['value'], 1)} bits per weight",
            f"saved against nn.quantize at equal {quality}; 95 %: {format_interval(own[key], 2)}; {size};"
            f" {describe_setting(saved)}",
        )
        for key, title, quality in SAVINGS
    ]
