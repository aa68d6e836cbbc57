"""Suggested lower bit widths: from the mixed-precision search and the tier analysis."""

from collections import Counter

from taqmlx.numerics.quality import to_decibels
from taqmlx.planning.documents import ChosenBits, MixedBits
from taqmlx.report.runs import format_value
from taqmlx.report.tables import (
    Body,
    Cell,
    Column,
    Facts,
    Table,
    format_fixed,
    name_choice,
    show_count,
    show_decibels,
    show_number,
)


def describe_suggestions(multitier: Facts, mixed: MixedBits) -> Facts:
    """Table of mixed and uniform bits, the tiers of inputs, and their settings."""
    return {
        "mixed": tabulate_mixed(mixed),
        "tiers": tabulate_tiers(multitier["summary"]),
        "choices": list_tiers(multitier),
    }


def tabulate_mixed(mixed: MixedBits) -> Table:
    """Best uniform choice of bits and group size, if one fits, and the mixed choice of at most the same size."""
    rows = {title: row for title, row in (("uniform", mixed["uniform"]), ("mixed", mixed["mixed"])) if row["layers"]}
    kinds = sorted({name_choice(choice) for row in rows.values() for choice in row["layers"].values()}, key=read_bits)
    columns = [
        Column("Weights", is_number=False),
        Column("Bits per weight", meaning="over all linear layers, scales and zero points included"),
        Column("Predicted, dB", meaning="guided velocity SNR, from the errors of single layers; higher is better"),
        *(Column(kind, meaning="number of layers with these bits and this group size") for kind in kinds),
    ]
    body = Body([show_mixed(title, row, kinds) for title, row in rows.items()])
    caption = f"Uniform and mixed weight bits, at most {format_fixed(mixed['budget'], 2)} bits per weight"
    return Table("mixed", caption, columns, [body])


def show_mixed(title: str, row: ChosenBits, kinds: list[str]) -> list[Cell]:
    """Row of the mixed-bits table: size, predicted error, and number of layers with each choice."""
    counts = Counter(name_choice(choice) for choice in row["layers"].values())
    return [
        Cell(title),
        show_number(row["bits_per_weight"]),
        show_decibels(to_decibels(1, row["predicted"])),
        *(show_count(counts[kind] or None) for kind in kinds),
    ]


def read_bits(kind: str) -> tuple[int, ...]:
    """Sort key of a label from `name_choice`."""
    return tuple(int(part) for part in kind.split(" / "))


def tabulate_tiers(summary: Facts) -> Table:
    """Table of the frequency of each input bit width."""
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
        Column("Share, %", meaning="of decisions; one decision per layer and noise level"),
        Column("Decisions"),
        Column("Constant layers", meaning="layers with these bits at every noise level"),
    ]
    return Table("tiers", "Input bits by layer and noise level", columns, [Body(rows)])


def list_tiers(analysis: Facts) -> list[tuple[str, str]]:
    """Settings and summary of the tier choice, as (term, text)."""
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
        pairs += [("Mean bits", format_fixed(summary["mean_bits"], 2)), ("Bits vary over time", changing)]
    return pairs
