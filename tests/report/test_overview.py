"""The summary follows from the numbers by rules."""

import pytest

from taqmlx.report import overview, trouble
from tests.support.report_study import make_evaluation, make_variant


def read(distance, interval):
    fid = make_evaluation()
    fid["variants"]["w4a8"]["fid_to_full_precision"] = {"value": distance, "interval_95": interval, "n": 8}
    return overview.read_result(fid, "w4a8")


def test_the_summary_distinguishes_well_below_below_and_not_below():
    theirs = r"other seeds \(0.841, 95 % interval 0.420 to 1.682\)"
    assert "(FID 0.047, 95 % interval 0.008 to 0.107) is well below that" in read(0.047, [0.008, 0.107])
    assert "is below that of full precision with " in read(0.8, [0.3, 1.5])
    assert "may be chance" in read(0.8, [0.3, 1.5])
    assert "is not below that" in read(0.9, [0.3, 1.5])
    assert theirs.replace("\\", "") in read(0.9, [0.3, 1.5])


def test_the_subject_of_the_report_is_the_variant_closest_to_the_deliverable():
    assert overview.choose_subject(["fp", "w4a8", "rtn_w4a8", "w4a16"]) == "w4a8"
    assert overview.choose_subject(["fp", "rtn_w4a8", "w4a16"]) == "w4a16"
    assert overview.choose_subject(["fp"]) is None


def test_without_a_quantized_variant_the_summary_says_so():
    fid = make_evaluation()
    assert overview.read_result(fid, None).startswith("No quantized variant")
    assert overview.list_tiles(fid, None) == []


def test_variants_come_in_the_order_of_the_configuration():
    fid = make_evaluation()
    fid["variants"] |= {"rtn_w4a8": fid["variants"]["w4a8"], "added": fid["variants"]["w4a8"]}
    assert overview.order_variants(fid, ["w4a8", "rtn_w4a8", "w4a16"]) == ["fp", "w4a8", "rtn_w4a8", "added"]


@pytest.fixture
def quality():
    return overview.tabulate_quality(make_evaluation(), ["fp", "w4a8"], "w4a8")


def read_row(table, name):
    row = next(row for body in table.bodies for row in body.rows if row[0].note == name)
    return {column.title: cell for column, cell in zip(table.columns, row, strict=True)}


def test_measures_have_their_intervals_in_the_same_unit(quality):
    row = read_row(quality, "w4a8")
    assert row["FID to full precision"][::2] == ("0.047", "0.024 to 0.094")
    assert row["KID to full precision, ×10³"][::2] == ("0.010", "−0.060 to 0.070")
    assert row["Prompt accuracy, %"][::2] == ("99.0", "98.0 to 100.0")
    assert row["Variant"].mark == "subject"


def test_no_difference_is_exact_and_an_unmeasured_quantity_has_no_column(quality):
    assert read_row(quality, "fp_rerun")["Latent SNR, dB"].text == "exact"
    assert read_row(quality, "fp")["Latent SNR, dB"].text == "–"
    assert not {"LPIPS", "CMMD to real"} & {column.title for column in quality.columns}


def test_a_measure_that_was_configured_has_a_column():
    fid = make_evaluation()
    fid["variants"]["w4a8"]["paired"]["lpips"] = {"median": 0.01, "interval_95": [0.005, 0.02], "n": 8}
    row = read_row(overview.tabulate_quality(fid, ["fp", "w4a8"], "w4a8"), "w4a8")
    assert row["LPIPS"].text == "0.0100"


def test_sizes_are_shares_of_the_same_weights_in_32_and_16_bits():
    row = read_row(overview.tabulate_sizes(make_evaluation(), ["fp", "w4a8"]), "w4a8")
    assert (row["Of 32-bit size, %"].text, row["Of 16-bit size, %"].text) == ("18.3", "36.6")
    assert row["Inputs, bits"].text == "8, unquantized"


def test_only_measured_values_are_listed_as_trouble():
    fid = make_evaluation()
    assert trouble.list_troubles(fid, None, [], [], []) == []
    found = dict(trouble.list_troubles(fid, "w4a8", [{"name": "mm_00 image", "now": 31.25}], [], []))
    assert found["Block mm_00 image"] == "output SNR 31.2 dB"
    assert found["Step 2 of 2"] == (
        "largest error of W4A8, from sigma 0.500 to 0.000: latent SNR 20.3 dB after this step alone"
    )
    assert "10.3 dB" in found["The worst picture"]


def test_steps_without_a_difference_are_not_the_worst():
    variant = make_variant("A", 0.1, 20.0, 4, [8])
    variant["error_growth"]["latent_snr_db"]["teacher_forced"]["median"] = [40.0, None]
    assert trouble.describe_step(variant)[0] == "Step 1 of 2"
