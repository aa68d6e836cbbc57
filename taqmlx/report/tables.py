"""Tables as data: columns, and rows of cells with display text and sort value."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from taqmlx.planning.documents import Bits

MINUS, UNKNOWN = "\u2212", "\u2013"
SHORT = 5  # tables with fewer rows have no marks


class Cell(NamedTuple):
    """`text` is shown, with `note` below in small print; rows sort by `value`, or by `text` if it is None."""

    text: str
    value: float | None = None
    note: str = ""
    mark: str = ""


class Column(NamedTuple):
    """`meaning` is explained below the table; `worst` is `low` or `high` to mark that end of the column."""

    title: str
    is_number: bool = True
    meaning: str = ""
    worst: str = ""


class Body(NamedTuple):
    """A group of rows, with an optional title. The first cell of a row is its header."""

    rows: list[list[Cell]]
    title: str = ""


class Table(NamedTuple):
    """A table with a caption; if `is_sortable`, it has one body and can be sorted and searched."""

    name: str
    caption: str
    columns: Sequence[Column]
    bodies: Sequence[Body]
    is_sortable: bool = False
    unit: str = "rows"


# Content of a document, or facts derived from documents, by name: what tables and templates look up.
Facts = dict[str, Any]
Getter = Callable[[Facts], Cell]
NOTHING = Cell(UNKNOWN)
EXACT = Cell("exact", math.inf)


def tabulate(
    name: str, caption: str, columns: Sequence[tuple[Column, Getter]], facts: Iterable[Facts], unit: str
) -> Table:
    """Sortable table with one row per entry of `facts`; each column has a getter for its cells."""
    heads = [column for column, _ in columns]
    rows = [[get(fact) for _, get in columns] for fact in facts]
    return Table(name, caption, heads, [Body(mark_worst(heads, rows))], is_sortable=True, unit=unit)


def format_markdown(table: Table) -> str:
    """Format the cells as Markdown, with the bodies concatenated."""
    rows = [row for body in table.bodies for row in body.rows]
    lines = [[column.title for column in table.columns], ["---:" if c.is_number else "---" for c in table.columns]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *([cell.text for cell in row] for row in rows)])


def mark_worst(columns: Sequence[Column], rows: list[list[Cell]], share: float = 0.1) -> list[list[Cell]]:
    """Mark the worst `share` of every column that has a worst end."""
    limits = [find_limit([row[i].value for row in rows], column.worst, share) for i, column in enumerate(columns)]
    return [[mark(cell, limit) for cell, limit in zip(row, limits, strict=True)] for row in rows]


def find_limit(values: Iterable[float | None], worst: str, share: float) -> tuple[float, int] | None:
    """Return the limit of the worst `share`, and the sign for which low values are bad.

    None if there is no outlier: too few values, or equal ones.
    """
    known = sorted((value for value in values if value is not None), reverse=worst == "high")
    if not worst or len(known) < SHORT or known[0] == known[-1]:
        return None
    return known[max(1, int(len(known) * share)) - 1], -1 if worst == "high" else 1


def mark(cell: Cell, limit: tuple[float, int] | None) -> Cell:
    """Mark the cell if its value is at `limit` or worse."""
    if limit is None or cell.value is None or cell.value * limit[1] > limit[0] * limit[1]:
        return cell
    return cell._replace(mark="worst")


def show_words(text: str) -> Cell:
    """Text cell, sorted by its text."""
    return Cell(text)


def show_count(value: int | None) -> Cell:
    """Integer with thousands separators."""
    return NOTHING if value is None else Cell(f"{value:,}", value)


def show_number(value: float | None, digits: int = 2) -> Cell:
    """Number with a fixed number of decimals."""
    return NOTHING if value is None else Cell(format_fixed(value, digits), value)


def name_choice(choice: Bits) -> str:
    """Label with bits and group size of a weight."""
    return f"{choice['bits']} / {choice['group_size']}"


def show_choice(choice: Bits | None) -> Cell:
    """Bits and group size of a weight; sorts by bits, then from larger to smaller groups."""
    return Cell(name_choice(choice), choice["bits"] + 1 / choice["group_size"]) if choice else NOTHING


def show_magnitude(value: float | None) -> Cell:
    """Number of any size with three significant digits."""
    return NOTHING if value is None else Cell(format_significant(value), value)


def show_decibels(value: float | None) -> Cell:
    """Ratio in dB with one decimal; an infinite one is exact."""
    return EXACT if value == math.inf else show_number(value, 1)


def format_fixed(value: float, digits: int) -> str:
    """Format with `digits` decimals and a true minus sign, which is omitted for zero."""
    text = f"{abs(value):,.{digits}f}"
    return MINUS + text if value < 0 and any(digit in "123456789" for digit in text) else text


def format_significant(value: float) -> str:
    """Format with three significant digits, as a power of ten outside 0.001 to 99,999."""
    if value == 0 or 1e-3 <= abs(value) < 100:
        return f"{value:#.3g}".rstrip(".").replace("-", MINUS) if value else "0"
    return (f"{value:,.0f}" if 100 <= abs(value) < 1e5 else f"{value:.2e}").replace("-", MINUS)


def pick(facts: Facts, *keys: str) -> Facts:
    """Those of `keys` that `facts` has."""
    return {key: facts[key] for key in keys if key in facts}
