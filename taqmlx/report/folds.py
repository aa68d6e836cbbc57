"""Folds: the error of the block without and with each, and the channels of its input before and after it."""

from collections.abc import Mapping, Sequence
from functools import partial

from taqmlx.numerics.channel_grids import measure_lost, measure_spread, place_grid
from taqmlx.numerics.quality import to_decibels
from taqmlx.planning.layer_rules import InputRule
from taqmlx.report.tables import Cell, Column, Facts, Getter, Table, show_magnitude, show_number, show_words, tabulate
from taqmlx.store.folds_file import Fold

SIDES = ("before", "after")


def tabulate_folds(folds: Sequence[Fold], rules: Mapping[str, InputRule]) -> Table:
    """Sortable table with one row per fold that was kept; rules: of the inputs, by name."""
    columns: list[tuple[Column, Getter]] = [
        (Column("Input", is_number=False), lambda fact: show_words(fact["name"])),
        (Column("Fold", is_number=False), lambda fact: show_words(fact["kind"])),
        *(
            (
                Column(
                    title,
                    meaning=f"output SNR of the block {words} the fold, with the layers it changes rounded by RTN",
                ),
                partial(show_fact, key, 2),
            )
            for title, key, words in (("Without, dB", "without", "without"), ("With, dB", "with", "with"))
        ),
        (Column("Gain, dB", worst="low"), partial(show_fact, "gain", 2)),
        *(
            (Column(f"Spread {side}", meaning="largest over median channel"), partial(show_spread, f"spread_{side}"))
            for side in SIDES
        ),
        *(
            (
                Column(f"Below half a step {side}, %", meaning="channels that are not zero but below half a step"),
                partial(show_fact, f"lost_{side}", 1),
            )
            for side in SIDES
        ),
    ]
    caption = "Folds, with the errors of their blocks on held-out calibration points"
    return tabulate("folds-table", caption, columns, [describe_fold(fold, rules[fold.site]) for fold in folds], "folds")


def describe_fold(fold: Fold, rule: InputRule) -> Facts:
    """Ratios in dB, and by side the spread of the channels and the share of the lost ones in percent."""
    without, with_fold = (to_decibels(1, error) for error in fold.errors)
    facts: Facts = {
        "name": fold.site,
        "kind": fold.kind,
        "without": without,
        "with": with_fold,
        "gain": with_fold - without,
    }
    for side in SIDES:
        absmax = getattr(fold, side)
        lost = measure_lost(absmax, place_grid(absmax, rule))
        facts |= {f"spread_{side}": measure_spread(absmax), f"lost_{side}": None if lost is None else 100 * lost}
    return facts


def show_fact(key: str, digits: int, fact: Facts) -> Cell:
    """A number by its key."""
    return show_number(fact[key], digits)


def show_spread(key: str, fact: Facts) -> Cell:
    """A ratio of any size by its key."""
    return show_magnitude(fact[key])
