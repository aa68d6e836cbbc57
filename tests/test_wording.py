"""Every notion has one term: words with a better one are found in documents, comments, messages and names of tests."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.prose import list_files, read_prose


class Word(NamedTuple):
    """A pattern of whole words, what to write instead, and the files where it stays: quotations and written results."""

    pattern: str
    cure: str
    kept: tuple[str, ...] = ()


OLD_TITLES = "taqmlx/report/numbers.py"
WORDS = (
    # Terms of the field
    Word(r"time[ -]steps?", "timestep"),
    Word(r"(?<!round )(?<!rounds )(?<!rounded )(?<!rounding )to nearest", "RTN, or rounded to nearest", (OLD_TITLES,)),
    Word(r"what (?:(?:a|an|the|its|these|each|every|linear|other) )*(?:layer|input)s? reads?", "layer input"),
    Word(r"what (?:(?:a|the|its|these|each|every) )*blocks? reads?", "block input"),
    Word(r"largest magnitudes?", "absmax", ("taqmlx/numerics/tier_rules.py", "tests/numerics/test_tier_rules.py")),
    Word(r"ends? (?:is |are |were )?searched|search for the ends?", "clipping range, chosen by search"),
    Word(r"calibrated (?:time)?steps?(?! sizes?)", "selected timesteps, or calibrated step sizes"),
    Word(r"selected step sizes?", "calibrated step sizes"),
    Word(r"(?:captured|calibration) parts?|parts? of (?:the|its) (?:calibration |capture )?points", "shard"),
    Word(r"blocks? of (?:a|the) store", "chunk"),
    Word(r"(?:single|half)[ -]precision", "fp32, fp16 (or a 16-bit dtype)"),
    Word(r"quantis\w+", "quantize", ("tests/test_packaging.py",)),
    Word(r"regularis\w+", "regularizer"),
    # Plain verbs
    Word(r"refus(?:e|es|ed|ing|als?)", "reject"),
    Word(r"blam(?:e|es|ed|ing)", "name the file"),
    Word(r"(?:go|goes|went|gone|going) on", "resume, continue"),
    Word(r"(?:lead|leads|led|go|goes|went)? ?astray", "perturb, error"),
    Word(r"errs?", "has an error"),
    # Plain words
    Word(r"but for", "except", (OLD_TITLES,)),
    Word(r"of tomorrow|of last year", "dated in the future, dated last year"),
    Word(r"(?:hostile|other|foreign) hands", "hostile content"),
    Word(r"by the clock", "elapsed time"),
    Word(r"so many", "a number of"),
    Word(r"how manyth|manyth", "stride"),
    Word(r"in vain", "unused"),
    Word(r"anew", "again"),
    Word(r"dearer|dearest", "more costly"),
)
PROSE = [
    (path, number, line)
    for path in list_files()
    if path != Path(__file__).relative_to(Path.cwd())
    for number, line in read_prose(path)
]


def find(word):
    """Where a word stands, a line each: file, line, word, cure."""
    pattern = re.compile(rf"(?<![\w`-])(?:{word.pattern})(?![\w`-])", re.I)
    return [
        f"{path}:{number}: {found.strip()}; write: {word.cure}"
        for path, number, line in PROSE
        if path.as_posix() not in word.kept
        for found in pattern.findall(line)
    ]


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.cure)
def test_a_notion_has_one_term(word):
    found = find(word)
    assert not found, "\n".join(found)
