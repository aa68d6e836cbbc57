"""The report shows the effect and the cost of distillation."""

from argparse import Namespace

from taqmlx.report.distillation import describe_distillation
from tests.support.report_study import make_distillation

LAYERS = [Namespace(name="a"), Namespace(name="b")]


def test_errors_are_shown_as_snr_and_the_time_is_that_of_the_jobs():
    words = dict(describe_distillation(make_distillation(LAYERS), {"distil": [{"s": "90"}], "score": [{"s": "5"}]}))
    assert words["Guided velocity SNR"].startswith("20.00 dB before, 23.01 dB after distillation, on 100 points")
    assert words["Codes moved"] == "1.50 %, the mean of 2 layers; most in b, 2.00 %"
    assert words["Loss"] == "0.02 at the start, 0.0125 at the end"
    assert words["Time"] == "1 min 30 s"


def test_a_discarded_distillation_is_stated():
    report = make_distillation(LAYERS) | {"chosen": "blocks", "moved_codes": {}, "loss": {"every": 1, "values": []}}
    words = dict(describe_distillation(report, {}))
    assert words["Kept"].startswith("the blocks before distillation")
    assert words.keys() == {"Guided velocity SNR", "Kept"}
    assert describe_distillation(None, {}) == []
