"""The report begins with the bits saved, and its first table compares our sizes with nn.quantize."""

from taqmlx.report.frontier import describe_saving, tabulate_frontier
from tests.plots.synthetic import build_frontier, build_way
from tests.support.report_study import make_saving


def read_rows(table):
    return [
        [dict(zip([c.title for c in table.columns], row, strict=True)) for row in body.rows] for body in table.bodies
    ]


def test_our_sizes_come_first_with_their_savings_and_the_configured_size_is_marked():
    ours, plain = read_rows(tabulate_frontier(build_frontier(), 4.5))
    sizes = [row["Bits per weight"].text for row in ours]
    assert sizes == [text for text in ("3.00", "3.50", "4.00", "4.50", "5.00", "6.00") for _ in range(2)]
    marked = [row for row in ours if row[""].mark == "subject"]
    assert [row["Bits saved, median"][::2] for row in marked] == [("1.75", "1.50 to 2.25"), ("1.35", "1.50 to 2.25")]
    assert {row["Bits saved, median"].text for row in plain} == {"–"}


def test_only_the_frontier_of_nn_quantize_is_shown():
    frontier = build_frontier(sizes=(4,))
    frontier["ways"] += [build_way("worse", "worse and larger", 9.5, 0.0), build_way("better", "better", 9.5, 90.0)]
    _, plain = read_rows(tabulate_frontier(frontier, None))
    medians = [row["Median, dB"].value for row in plain]
    assert medians == sorted(medians)
    assert "worse and larger" not in {row[""].text for row in plain}
    assert plain[-1][""].text == "better"


def test_shares_are_in_percent_and_the_caption_names_the_pictures():
    table = tabulate_frontier(build_frontier(), None)
    assert read_rows(table)[0][0]["Below 5 dB, %"][::2] == ("25.0", "12.5 to 50.0")
    assert "256 pictures of held-out captions, 28 steps, guidance 3" in table.caption


def test_without_a_configured_size_there_is_no_tile():
    assert describe_saving(None) == []
    first, second = describe_saving(make_saving())
    assert first[:2] == ("Bits saved", "2.2 bits per weight")
    assert second[:2] == ("Bits saved, lowest 5 %", "1.5 bits per weight")
    for _, _, note in (first, second):
        assert "4.49 bits per weight over all linear layers; 256 pictures of held-out captions, 28 steps" in note
