"""Documents whose numbers are filled in: `<!-- n: NAME -->3.4` in the text, tables between comments.

NAME is a dotted name of the measured numbers, or `NAME - NAME` their difference. What stands there gives the decimals;
before ` %` a share is shown in percent. A table stands between `<!-- numbers: TABLE -->` and `<!-- end -->`.
"""

import re

from taqmlx.report.document_tables import TABLES
from taqmlx.report.numbers import Numbers, find
from taqmlx.store.errors import UserError

MARK = re.compile(r"<!-- n: ([^>]*?) -->")
NUMBER = re.compile(rf"{MARK.pattern}(-?\d+(?:,\d{{3}})*(?:\.\d+)?(?:e-?\d+)?)( ?%)?")
FIRST = re.compile(rf"^\s*(?:(?:[->*]|\d+\.) +)*{MARK.pattern}", re.M)
TABLE = re.compile(r"^<!-- numbers: (.*?) -->\n(.*?)^<!-- end -->$", re.M | re.S)
DIFFERENCE = " - "


def fill(text: str, numbers: Numbers) -> str:
    """`text` with every marked number and table as `numbers` has it.

    Raises UserError for a mark without a number, or one that begins a line: Markdown takes such a line for HTML.
    """
    if bare := [found[1] for found in MARK.finditer(text) if not NUMBER.match(text, found.start())]:
        raise UserError(f"the mark of {bare[0]} has no number after it; write one with the decimals to show")
    if found := FIRST.search(text):
        raise UserError(
            f"the mark of {found[1]} begins a line, which Markdown takes for HTML; break the line elsewhere"
        )
    if len(re.findall("<!-- numbers: ", text)) != len(TABLE.findall(text)):
        raise UserError("a table has no <!-- end --> on a line of its own; add it")
    text = NUMBER.sub(lambda found: show_number(found, numbers), text)
    return TABLE.sub(lambda found: show_table(found, numbers), text)


def show_number(found: re.Match[str], numbers: Numbers) -> str:
    """A mark and its number."""
    name, shown, percent = found.groups()
    try:
        first, *others = (find(numbers, part) for part in name.split(DIFFERENCE))
    except KeyError:
        raise UserError(f"no measured number is named {name}; correct the name, or measure it") from None
    value = (first - sum(others)) * (100 if percent else 1)
    return f"<!-- n: {name} -->{format_like(value, shown)}{percent or ''}"


def format_like(value: float, shown: str) -> str:
    """`value` with the decimals of the number `shown`, and with a power of ten if that has one."""
    digits, power, _ = shown.partition("e")
    decimals = len(digits.partition(".")[2])
    if not power:
        return f"{value:,.{decimals}f}"
    return re.sub(r"e([-+])0*(?=\d)", lambda sign: f"e{sign[1].strip('+')}", f"{value:.{decimals}e}")


def show_table(found: re.Match[str], numbers: Numbers) -> str:
    """A table between its comments, blank lines around it."""
    name = found[1]
    if name not in TABLES:
        raise UserError(f"no table is named {name}; choose one of {', '.join(TABLES)}")
    return f"<!-- numbers: {name} -->\n\n{TABLES[name](numbers)}\n\n<!-- end -->"
