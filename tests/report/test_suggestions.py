"""Mixed bits are shown beside uniform ones if a uniform choice fits the size."""

from taqmlx.report.suggestions import tabulate_mixed
from taqmlx.report.tables import NOTHING, show_choice
from tests.support.report_study import make_mixed

MIXED = make_mixed(dict.fromkeys("abcdefg"))


def test_layers_are_counted_by_width_and_group():
    table = tabulate_mixed(MIXED)
    titles = [column.title for column in table.columns]
    uniform, mixed = ([cell.text for cell in row] for row in table.bodies[0].rows)
    assert titles[3:] == ["2 / 128", "3 / 64", "3 / 128", "4 / 128", "5 / 128", "6 / 128"]
    assert uniform == ["uniform", "3.50", "17.0", "–", "7", "–", "–", "–", "–"]
    assert mixed == ["mixed", "3.49", "20.0", "2", "–", "2", "1", "1", "1"]


def test_without_a_uniform_choice_its_row_is_omitted():
    table = tabulate_mixed(MIXED | {"uniform": {"bits_per_weight": 0.0, "predicted": 0.0, "layers": {}}})
    assert [row[0].text for row in table.bodies[0].rows] == ["mixed"]


def test_choices_are_sorted_by_bits_and_then_by_size():
    values = [show_choice({"bits": bits, "group_size": size}).value for bits, size in ((2, 64), (3, 128), (3, 64))]
    assert values == sorted(values)
    assert show_choice({"bits": 3, "group_size": 128}).text == "3 / 128"
    assert show_choice(None) == NOTHING
