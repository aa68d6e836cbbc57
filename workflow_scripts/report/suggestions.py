"""Fewer bits where they suffice: what the search for mixed bits and the analysis by tiers suggest."""

from collections.abc import Iterator
from typing import Any

from workflow_scripts.report.runs import format_value
from workflow_scripts.report.tables import (
    Body,
    Cell,
    Column,
    Table,
    format_fixed,
    show_count,
    show_magnitude,
    show_number,
)

Facts = dict[str, Any]


def describe_suggestions(multitier: Facts, mixed: Facts) -> dict[str, Any]:
    """The table of mixed against uniform bits, the tiers of inputs, and how those were chosen."""
    return {
        "mixed": tabulate_mixed(mixed),
        "tiers": tabulate_tiers(multitier["analysis"]["summary"]),
        "choices": list_tiers(multitier["analysis"]),
    }


def tabulate_mixed(mixed: Facts) -> Table:
    """Uniform bits and mixed ones of at most the same size, with every latent SNR measured of them."""
    kinds = sorted({key for row in ("uniform", "mixed") for key, _ in flatten(mixed[row]["latent_snr_db"])})
    columns = [
        Column("Weights", is_number=False),
        Column("Bits a weight", meaning="scales and zero points included"),
        Column("Predicted", meaning="the velocity's relative error, from each layer's own; lower is better"),
        *(Column(f"Latent SNR {kind}, dB") for kind in kinds),
    ]
    titles = {"uniform": f"{mixed['uniform']['bits']} bits everywhere", "mixed": "mixed bits"}
    rows = [show_mixed(title, mixed[row], kinds) for row, title in titles.items()]
    return Table("mixed", f"Mixed weight bits, at most {mixed['budget']:g} bits a weight", columns, [Body(rows)])


def show_mixed(title: str, row: Facts, kinds: list[str]) -> list[Cell]:
    """A row of the table of mixed bits."""
    measured = dict(flatten(row["latent_snr_db"]))
    return [
        Cell(title),
        show_number(row["bits_per_weight"]),
        show_magnitude(row["predicted"]),
        *(show_number(measured.get(kind), 1) for kind in kinds),
    ]


def tabulate_tiers(summary: Facts) -> Table:
    """How often each number of bits was chosen for an input."""
    found = sorted(int(key.removeprefix("total_a")) for key in summary if key.startswith("total_a"))
    rows = [
        [
            Cell(f"{bits} bits"),
            show_number(summary[f"a{bits}_percentage"], 1),
            show_count(summary[f"total_a{bits}"]),
            show_count(len(summary[f"always_a{bits}"])),
        ]
        for bits in found
    ]
    columns = [
        Column("Inputs", is_number=False),
        Column("Share, %", meaning="of decisions: a layer at a noise level"),
        Column("Decisions"),
        Column("Layers always", meaning="layers that have these bits at every noise level"),
    ]
    return Table("tiers", "Input bits by layer and noise level", columns, [Body(rows)])


def list_tiers(analysis: Facts) -> list[tuple[str, str]]:
    """By what the tiers were chosen, and what that comes to, as (term, words)."""
    settings = {key: value for key, value in analysis.items() if key not in ("layers", "summary", "phases")}
    summary = analysis["summary"]
    pairs = [
        (key.replace("_db", ", dB").replace("_", " ").capitalize().replace("db", "dB"), format_value(value))
        for key, value in settings.items()
    ]
    pairs += [
        (f"{name.capitalize()} phase", f"noise levels {low:g} to {high:g}")
        for name, (low, high) in analysis["phases"].items()
    ]
    if summary["total_layers"]:
        changing = f"{len(summary['switching_layers'])} of {summary['total_layers']} layers"
        pairs += [("Mean bits", format_fixed(summary["mean_bits"], 2)), ("Bits change in time", changing)]
    return pairs


def flatten(value: Facts, before: str = "") -> Iterator[tuple[str, float | None]]:
    """The numbers of nested dictionaries, with their keys joined."""
    for key, item in value.items():
        name = f"{before} {key}".strip().replace("_", " ")
        if isinstance(item, dict):
            yield from flatten(item, name)
        elif item is None or isinstance(item, int | float):
            yield name, item
