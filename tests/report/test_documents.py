"""Marks in documents are filled with measured numbers in the form of the number that stands there."""

import pytest

from taqmlx.report.documents import fill
from taqmlx.store.errors import UserError

NUMBERS = {
    "a": {"x": 3.456, "share": 0.0781, "large": 12345.6, "small": 3.3e-4, "count": 7, "word": "x", "below": -0.5}
}


def mark(name, shown):
    return f"It is <!-- n: a.{name} -->{shown} and more."


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        *(("x", "1", "3"), ("x", "1.0", "3.5"), ("x", "0.00", "3.46"), ("count", "1", "7"), ("below", "1.0", "-0.5")),
        *(("share", "1 %", "8 %"), ("share", "1.0 %", "7.8 %"), ("share", "1.0", "0.1"), ("x", "22x", "3x")),
        *(("large", "1,000", "12,346"), ("large", "9.0", "12,345.6"), ("small", "1.0e-2", "3.3e-4")),
        *(
            ("x", "1, 2", "3, 2"),
            ("x", "1.", "3."),
            ("x - a.count", "1.0", "-3.5"),
            ("large - a.x - a.x", "0", "12,339"),
        ),
    ],
)
def test_a_number_keeps_its_form(name, before, after):
    assert fill(mark(name, before), NUMBERS) == mark(name, after)
    assert fill(mark(name, after), NUMBERS) == mark(name, after)


@pytest.mark.parametrize("name", ["a", "a.y", "a.word", "b.x", "a.x.y", "a.x - a.y"])
def test_a_name_without_a_number_is_named(name):
    with pytest.raises(UserError, match=f"named {name};"):
        fill(f"It is <!-- n: {name} -->3.", NUMBERS)


def test_a_mark_needs_a_number():
    with pytest.raises(UserError, match=r"mark of a\.x has no number"):
        fill("It is <!-- n: a.count -->3 or <!-- n: a.x -->unknown.", NUMBERS)


@pytest.mark.parametrize("line", ["", "  ", "- ", "> ", "1. "])
def test_a_mark_may_not_begin_a_line(line):
    with pytest.raises(UserError, match=r"mark of a\.x begins a line"):
        fill(f"It is\n{line}<!-- n: a.x -->3.", NUMBERS)


def test_a_table_is_replaced():
    ratios = {"sigma": 1.0, "token": 2, "groups_of_64": 3, "groups_of_32": 4.04}
    ratios |= {f"affine_{kind}": 5 for kind in ("groups_of_32", "groups_of_64", "centred")}
    numbers = {"policies": {"latent_snr_db": ratios}}
    filled = fill("Before\n\n<!-- numbers: policies -->\nold\n<!-- end -->\n\nAfter\n", numbers)
    lines = filled.split("\n")
    assert (lines[2], lines[4]) == ("<!-- numbers: policies -->", "| one step size per | policy | dB |")
    assert "| token and 32 channels | `dynamic`, `group_size: 32` | 4.0 |" in filled
    assert filled.endswith("| `affine`, `group_size: 32`, `folds` | 5.0 |\n\n<!-- end -->\n\nAfter\n")
    assert fill(filled, numbers) == filled


@pytest.mark.parametrize(
    ("text", "said"),
    [("<!-- numbers: x -->\n<!-- end -->\n", "named x"), ("<!-- numbers: ladder -->\n", "no <!-- end -->")],
)
def test_a_table_needs_a_name_and_an_end(text, said):
    with pytest.raises(UserError, match=said):
        fill(text, NUMBERS)


def test_the_hard_twin_s_rungs_are_beside_those_of_the_plain_model():
    def describe(place, title, ratio, **gain):
        return {"place": place, "title": title, "latent_snr": {"typical": ratio}} | gain

    gain = {"base": "w4a8_joint", "value": 2.0, "interval_95": [1.5, 2.25]}
    hard = {"w4a8_shift": describe(1, "  + shift", 10.0, gain=gain), "w4a8_joint": describe(0, "joint", 8.0)}
    plain = {"w4a8_joint": describe(0, "joint", 11.04), "w4a8_shift": describe(1, "  + shift", 12.0)}
    numbers = {"ladder": {"rungs": plain}, "hard_ladder": {"rungs": hard}}
    filled = fill("<!-- numbers: hard_ladder -->\n<!-- end -->\n", numbers)
    assert filled.split("\n")[4:6] == [
        "| joint | 11.0 | 8.0 |  |  |",
        "| + shift | 12.0 | 10.0 | 2.00 [1.50, 2.25] | joint |",
    ]
