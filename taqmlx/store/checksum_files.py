"""Checksum files for results that have neither a checksum of their own nor a seal.

`report.html.sha256` covers `report.html`, `exports/samples.sha256` every file in `exports/samples`, and
`plots/size_quality.sha256` the PNG and the SVG file of that name. The format is that of `sha256sum`, so `sha256sum
--check report.html.sha256` works.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from taqmlx.planning.plain_files import read_plain
from taqmlx.store.errors import UserError
from taqmlx.store.files import SNAKEMAKE_MARKS, hash_file, name_file, write_atomically, write_folder

SUMS = ".sha256"
MARK = "# "  # starts a comment, which sha256sum ignores


def name_sums(place: Path) -> Path:
    """Path of the checksum file of `place`: a file, a folder, or the common stem of several files."""
    return place.with_name(place.name + SUMS)


def name_result(sums: Path) -> Path:
    """Inverse of `name_sums`."""
    return sums.with_name(sums.name.removesuffix(SUMS))


@contextmanager
def checksummed(place: Path, *files: Path) -> Iterator[None]:
    """Write the checksum file of `files`, or of the single file `place`, which are written within the context.

    The checksum file is absent meanwhile: a killed writer leaves files without digests, never with wrong ones.
    """
    sums = name_sums(place)
    with name_file(sums):
        sums.unlink(missing_ok=True)
    yield
    write_sums(sums, {file.name: hash_file(file) for file in files or (place,)})


def write_sums(sums: Path, digests: dict[str, str]) -> None:
    """Write sha256 digests (hex) by name, relative to the folder of `sums`, then their own digest as a comment."""
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    write_atomically(sums, lambda partial: partial.write_text(f"{lines}{MARK}{digest(lines)}\n", encoding="utf-8"))


def digest(lines: str) -> str:
    """sha256 (hex) of text."""
    return hashlib.sha256(lines.encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically in UTF-8, with a checksum file."""
    with checksummed(path):
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_checksummed_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Call `write_folder`, with a checksum file that covers every file in the folder. Raises as that does."""

    def fill_and_sum(partial: Path) -> None:
        fill(partial)
        # Before the folder is renamed: a published folder is never rewritten.
        write_sums(
            name_sums(path),
            {f"{path.name}/{file.relative_to(partial).as_posix()}": hash_file(file) for file in list_plain(partial)},
        )

    write_folder(path, fill_and_sum)


def list_plain(folder: Path) -> list[Path]:
    """Return every file in `folder`, sorted, without Snakemake's marks."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in SNAKEMAKE_MARKS)


def read_sums(sums: Path) -> dict[str, str]:
    """Read the digests in `sums` by name. Raises UserError, naming it, if it is damaged or of another result."""
    line = re.compile(rf"([0-9a-f]{{64}})  ({re.escape(name_result(sums).name)}(?:[./].+)?)")
    try:
        lines, _, last = read_plain(sums).decode("utf-8").rpartition(MARK)
    except (OSError, ValueError) as error:
        raise UserError(f"{sums} cannot be read ({error})") from None
    found = [line.fullmatch(text) for text in lines.split("\n")[:-1]]
    if last != f"{digest(lines)}\n" or not all(found):
        raise UserError(f"{sums} is damaged")
    return {match[2]: match[1] for match in found if match}
