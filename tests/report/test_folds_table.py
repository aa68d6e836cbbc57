"""The report lists every fold with its gain and what it does to the channels of its input."""

import numpy as np

from taqmlx.report.folds import tabulate_folds
from taqmlx.store.folds_file import Fold

SITE = "mm_00.image.mlp.fc1"


def test_a_row_has_the_errors_the_gain_and_the_channels_before_and_after():
    before, after = np.array([300, 1, 1, 2], np.float32), np.array([3, 1, 1, 1], np.float32)
    fold = Fold(SITE, "scale", np.ones(4, np.float32), before, after, (0.1, 0.05))
    table = tabulate_folds([fold], {SITE: {"bits": 8, "policy": "static", "group_size": "token"}})
    ((row,),) = (body.rows for body in table.bodies)
    shown = dict(zip((column.title for column in table.columns), (cell.text for cell in row), strict=True))
    assert shown == {
        "Input": SITE,
        "Fold": "scale",
        "Without, dB": "10.00",
        "With, dB": "13.01",
        "Gain, dB": "3.01",
        "Spread before": "200",
        "Spread after": "3.00",
        "Below half a step before, %": "50.0",
        "Below half a step after, %": "0.0",
    }


def test_an_unquantized_input_loses_nothing():
    fold = Fold(SITE, "scale", *[np.ones(4, np.float32)] * 3, (0.1, 0.05))
    ((row,),) = (body.rows for body in tabulate_folds([fold], {SITE: {"bits": 16}}).bodies)
    assert [cell.text for cell in row[-2:]] == ["\u2013"] * 2
