"""Prompts from tables (CSV, TSV) and JSON. Ambiguous content is rejected with its line number.

Standard library only. The readers raise ValueError with a short message that omits the file name.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

from taqmlx.planning.plain_files import parse_json

# Names of the prompt column or key, case-insensitive, in order of precedence.
NAMES = ("prompt", "prompts", "caption", "captions", "text")
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}

Row = tuple[int, str]  # line number of the first line of a row, and its prompt


def read_csv(text: str) -> list[str]:
    """Prompts of a table separated by commas, semicolons or tabs; the first delimiter that gives a prompt column is
    used.
    """
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    fitting = [delimiter for delimiter in DELIMITERS if list_names(first, delimiter)]
    return [prompt for _, prompt in read_rows(text, fitting[0] if fitting else ",", csv.QUOTE_MINIMAL)]


def read_tsv(text: str) -> list[str]:
    """Prompts of a tab-separated table. Quotes are part of a cell (IANA) or enclose it (Excel).

    Raises ValueError if both readings are possible and differ.
    """
    readings: list[list[Row]] = []
    faults: list[ValueError] = []
    for quoting in (csv.QUOTE_NONE, csv.QUOTE_MINIMAL):
        try:
            readings.append(list(read_rows(text, "\t", quoting)))
        except ValueError as error:
            faults.append(error)
    if not readings:
        raise faults[0]
    plain, quoted = readings[0], readings[-1]
    if plain != quoted:
        line = next(
            (row[0] for row, other in zip(plain, quoted, strict=False) if row != other),
            max(plain, quoted, key=len)[-1][0],
        )
        raise ValueError(f"line {line}: quotes around a cell may belong to it or not; save the table as CSV")
    return [prompt for _, prompt in plain]


def list_names(line: str, delimiter: str) -> list[str]:
    """The cells of a table's first row that name a prompt column, in lower case."""
    return [name for cell in line.split(delimiter) if (name := cell.strip(' \t\r\n"').lower()) in NAMES]


def read_rows(text: str, delimiter: str, quoting: Literal[0, 3]) -> Iterator[Row]:
    """Yield the non-empty rows of a table after its header.

    Raises ValueError for a missing prompt column, unbalanced quotes or ragged rows.
    """
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    column, width = -1, 0
    while True:
        start = reader.line_num
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"line {start + 1} begins a row that does not end ({error}); close each quote that opens a cell, and"
                " double the quotes within a cell"
            ) from None
        if row is None:
            break
        if not any(cell.strip() for cell in row):
            continue
        if not width:
            column, width = find_name(row, "the first row", "column"), len(row)
            continue
        reject_ragged(row, width, start + 1, DELIMITERS[delimiter])
        reject_swallowed([line.count(delimiter) + 1 for line in lines[start : reader.line_num]], width, start + 1)
        yield start + 1, join_lines(row[column])
    if not width:
        raise ValueError("it has no row with a column prompt or caption")


def find_name(names: list[str], where: str, kind: str) -> int:
    """Index of the prompt column or key. Raises ValueError if there is none, or if its name is repeated."""
    lower = [name.strip().lower() for name in names]
    found = next((name for name in NAMES if name in lower), None)
    if found is None:
        raise ValueError(f"{where} has no {kind} prompt or caption; rename one to prompt")
    if lower.count(found) > 1:
        raise ValueError(f"{where} has {lower.count(found)} {kind}s {found}; rename all but one")
    return lower.index(found)


def reject_ragged(row: list[str], width: int, line: int, delimiter: str) -> None:
    """Raise ValueError if a row has more or fewer cells than the header."""
    if len(row) != width:
        cure = f"put a cell with a {delimiter} in it in quotes" if len(row) > width else "add the missing ones"
        raise ValueError(f"line {line} has {len(row)} cell{'s' * (len(row) != 1)} and the first row {width}; {cure}")


def reject_swallowed(cells: list[int], width: int, line: int) -> None:
    """Raise ValueError for a quoted multi-line cell that could be several rows; `cells`: cell count of each line."""
    if len(cells) > 1 and min(cells[0], cells[-1]) >= width:
        raise ValueError(
            f"line {line}: a quote opens a cell that continues to line {line + len(cells) - 1}; close it in its line,"
            " or join the lines of the cell"
        )


def join_lines(prompt: str) -> str:
    """A prompt as a single line, with whitespace collapsed."""
    return " ".join(prompt.split())


def read_json(text: str) -> list[str]:
    """Prompts of a JSON list of strings or objects; several JSON values are read by `read_json_lines`."""
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return read_json_lines(text)
        raise ValueError(f"it is not JSON ({error})") from None
    items = value if isinstance(value, list) else [value]
    return [take_prompt(item, f"item {number}") for number, item in enumerate(items, 1)]


def read_json_lines(text: str) -> list[str]:
    """Prompts of JSON Lines: one string or object per line."""
    prompts = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                item = parse_json(line)
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON ({error})") from None
            prompts.append(take_prompt(item, f"line {number}"))
    return prompts


def take_prompt(item: Any, place: str) -> str:
    """The prompt in a string or object. Raises ValueError, naming `place`, if there is none."""
    if isinstance(item, dict):
        item = list(item.values())[find_name(list(item), place, "key")]
    if not isinstance(item, str):
        raise ValueError(f"{place} is neither a text nor an object with a text as its prompt or caption")
    return join_lines(item)


READERS: dict[str, Callable[[str], list[str]]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".tab": read_tsv,
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
}


def find_format(text: str) -> str:
    """The suffix a plain text file should have if it is a table or JSON; empty for lines of text."""
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    for suffix, delimiter in ((".tsv", "\t"), (".csv", ","), (".csv", ";")):
        if set(list_names(first, delimiter)) - {"text"}:  # "text" alone may be an ordinary word of a prompt
            return suffix
    if first.lstrip()[:1] not in ("[", "{"):
        return ""
    for suffix, content in ((".json", text), (".jsonl", first)):
        try:
            parse_json(content)
        except ValueError:
            continue
        return suffix
    return ""
