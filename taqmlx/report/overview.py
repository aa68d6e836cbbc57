"""Summary: size and quality of the variants, their interpretation, and the weak points."""

from collections.abc import Sequence

from taqmlx.planning.variants import FULL_PRECISION, OTHER_SEEDS, VARIANTS
from taqmlx.report.frontier import describe_saving
from taqmlx.report.measures import (
    ACCURACY,
    DISTANCE,
    LATENTS,
    MEASURES,
    Measure,
    find,
    format_interval,
    format_measure,
    show_measure,
)
from taqmlx.report.tables import UNKNOWN, Body, Cell, Column, Facts, Table, format_fixed, show_count, show_number
from taqmlx.runtime.summary import format_bytes

NOTES = {"null": "Exact"}  # display names that differ from those in the file
SINGLE, HALF = 4, 2  # bytes per weight in 32 and in 16 bits
# Sources of a variant's layers, from the furthest from the final quantized model to the model itself.
_DELIVERED = ("none", "blocks", "multitier", "weights", "quant_config")


def order_variants(fid: Facts, wanted: Sequence[str]) -> list[str]:
    """Full precision, then the variants in configuration order, then any others."""
    return [name for name in dict.fromkeys([FULL_PRECISION, *wanted, *fid["variants"]]) if name in fid["variants"]]


def choose_subject(order: Sequence[str]) -> str | None:
    """Variant that the report is about: the closest to the final quantized model, the last of equals; None if none."""
    ranked = [
        (_DELIVERED.index(VARIANTS[name].source), place)
        for place, name in enumerate(order)
        if name in VARIANTS and VARIANTS[name].source != "none"
    ]
    return order[max(ranked)[1]] if ranked else None


def name_short(described: Facts) -> str:
    """Title of a variant up to its first comma."""
    title: str = described["title"]
    return title.split(",")[0]


def tabulate_quality(fid: Facts, order: Sequence[str], subject: str | None) -> Table:
    """Table of the variants, then the noise floor; measures without values are left out."""
    rows = {name: fid["variants"][name] for name in order}
    measures = [m for m in MEASURES if any(find(described, m) for described in rows.values())]
    bodies = [
        Body([show_variant(name, row, measures, name == subject) for name, row in rows.items()]),
        Body([show_variant(name, row, measures) for name, row in fid["noise_floor"].items()], "Noise floor"),
    ]
    columns = [
        Column("Variant", is_number=False),
        Column("Bits per weight", meaning="over all linear layers, scales and zero points included"),
        *(Column(", ".join(filter(None, (m.title, m.unit))), meaning=m.meaning) for m in measures),
    ]
    caption = f"Quality of the variants on {describe_setting(fid)} each, with 95 % intervals"
    return Table("quality", caption, columns, bodies)


def show_variant(name: str, described: Facts, measures: Sequence[Measure], is_subject: bool = False) -> list[Cell]:
    """Row with a variant's title and measures."""
    head = Cell(described["title"], note=name, mark="subject" if is_subject else "")
    size = show_number(described.get("size", {}).get("bits_per_weight"))
    return [head, size, *(show_measure(described, measure) for measure in measures)]


def tabulate_sizes(fid: Facts, order: Sequence[str]) -> Table:
    """Table of the sizes of each variant's linear layers."""
    titles = (
        "Variant",
        "Stored",
        "Weights",
        "Bits per weight",
        "Of 32-bit size, %",
        "Of 16-bit size, %",
        "Inputs, bits",
    )
    rows = [show_size(name, fid["variants"][name]) for name in order]
    columns = [Column(title, is_number=place > 0) for place, title in enumerate(titles)]
    return Table("sizes", "Size of all linear layers, scales and zero points included", columns, [Body(rows)])


def show_size(name: str, described: Facts) -> list[Cell]:
    """Row of the size table."""
    size = described["size"]
    shares = [show_number(100 * size["bytes"] / (size["weights"] * width), 1) for width in (SINGLE, HALF)]
    widths = ", ".join("unquantized" if bits == 16 else str(bits) for bits in size["activation_bits"]) or UNKNOWN
    return [
        Cell(described["title"], note=name),
        Cell(format_bytes(size["bytes"])),
        show_count(size["weights"]),
        show_number(size["bits_per_weight"]),
        *shares,
        Cell(widths),
    ]


def read_result(fid: Facts, subject: str | None) -> str:
    """Describe the subject's distance to full precision, compared with full precision from other seeds, in two
    sentences.

    "well below" if its interval ends before theirs begins, "below" if only the value is lower.
    """
    floor = fid["noise_floor"].get(OTHER_SEEDS)
    described = fid["variants"][subject] if subject else {}
    ours, theirs = find(described, DISTANCE), find(floor or {}, DISTANCE)
    if ours is None or theirs is None:
        return "No quantized variant is compared with the noise floor here."
    size = format_fixed(described["size"]["bits_per_weight"], 2)
    if ours["interval_95"][1] < theirs["interval_95"][0]:
        words, reading = "well below", "other noise changes the set of pictures more than quantization"
    elif ours["value"] < theirs["value"]:
        words, reading = "below", "but the intervals overlap, so the difference may be chance"
    else:
        words, reading = "not below", "quantization changes the set of pictures as much as other noise"
    here, there = (
        f"{format_measure(found['value'], DISTANCE)}, 95 % interval {format_interval(found, DISTANCE)}"
        for found in (ours, theirs)
    )
    return (
        f"The {name_short(described)} model's distance to full precision (FID {here}) is {words} that of full"
        f" precision with other seeds ({there}): {reading}. It has {size} bits per weight over all linear layers, and"
        f" was measured on {describe_setting(fid)}."
    )


def list_tiles(fid: Facts, subject: str | None) -> list[tuple[str, str, str]]:
    """Headline tiles as (title, value, note): the bits saved, and size and quality of the subject."""
    if subject is None:
        return []
    setting = describe_setting(fid)
    described, exact = fid["variants"][subject], fid["variants"][FULL_PRECISION]
    size = described["size"]
    tiles = [
        *describe_saving(fid["bits_saved"]),
        (
            "Weights",
            format_bytes(size["bytes"]),
            f"{format_fixed(size['bits_per_weight'], 2)} bits per weight over all linear layers, scales included;"
            f" {format_bytes(size['weights'] * HALF)} in 16 bits",
        ),
    ]
    floor = fid["noise_floor"].get(OTHER_SEEDS)
    for measure, beside in ((DISTANCE, floor), (LATENTS, floor), (ACCURACY, exact)):
        if found := find(described, measure):
            cell = show_measure(described, measure)
            note = f"95 %: {format_interval(found, measure)}"
            if beside:
                note += f"; {beside['title']}: {show_measure(beside, measure).text}"
            tiles.append((measure.title, f"{cell.text} {measure.unit}".strip(), f"{note}; {setting}"))
    return tiles


def describe_setting(fid: Facts) -> str:
    """Describe the pictures that were measured."""
    return (
        f"{fid['n']:,} pictures of {fid['prompts']:,} held-out prompts, {fid['steps']} steps, guidance {fid['cfg']:g}"
    )


def describe_realization(fid: Facts, realization: Facts) -> str:
    """Describe real and simulated parts, and, if FID is not a headline, the reason."""
    parts = [f"Weights are {realization['weights']}", fid["notes"]["simulated"]]
    parts += [] if fid["is_headline"] else [fid["headline"]]
    return " ".join(f"{part[:1].upper()}{part[1:].rstrip('.')}." for part in parts)


def describe_sources(fid: Facts) -> list[tuple[str, str]]:
    """Sources of the numbers as (term, text)."""
    features, real = fid["features"], fid["reference"]["real"]
    return [
        ("Features", f"{features['network']}, {features['dimensions']:,} dimensions; resized: {features['resize']}"),
        (
            "Pictures",
            f"{fid['n']:,} per variant, {fid['prompts']:,} prompts, {fid['steps']} steps, guidance {fid['cfg']:g}",
        ),
        ("Real pictures", f"{real['n']:,}, {'drawn by the generator' if real['drawn'] else 'from a folder'}"),
        *((NOTES.get(key, key.replace("_", " ").capitalize()), note) for key, note in fid["notes"].items()),
    ]
