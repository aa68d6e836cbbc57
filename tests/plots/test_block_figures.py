"""Block figures show available data and name what is missing."""

import numpy as np
import pytest

from taqmlx.plots import blocks, distributions
from tests.plots.synthetic import build_report, build_reports, build_sensitivity


def test_reports_without_a_loss_are_omitted_with_a_note():
    reports = [
        build_report("mm_00", ("image",), ("rtn", "adaround")),
        build_report("mm_01", ("image",), ("rtn", "gptq")),
    ]
    axes = blocks.draw_convergence(reports, {"mm_00": 40.0}).axes[0]
    assert axes.get_title() == "1 of 2 blocks left out: their engine has no loss"
    assert [line.get_xdata()[0] for line in axes.lines if line.get_label() == "end of the warm-up"] == [40.0]


def test_without_any_loss_the_figure_says_so():
    axes = blocks.draw_convergence(build_reports(2, ("rtn",)), {}).axes[0]
    assert "No block was optimised by AdaRound" in axes.texts[0].get_text()


def test_block_errors_are_in_db_relative_to_the_output_power():
    report = build_report("mm_00", ("image",), ("rtn",))
    report["errors"]["rtn"] = {"full_precision_inputs": {"image": 0.01}, "quantized_inputs": {"image": 0.1}}
    lines = blocks.draw_block_errors([report]).axes[0].lines
    assert [line.get_ydata()[0] for line in lines] == [20, 10]


@pytest.mark.parametrize("engines", [("rtn",), ("rtn", "gptq"), ("rtn", "gptq", "adaround")])
def test_block_errors_show_the_measured_engines(engines):
    figure = blocks.draw_block_errors(build_reports(2, engines))
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == [blocks.ENGINES[name] for name in engines] + list(blocks.INPUTS.values())


def test_layer_errors_sum_streams_and_average_noise_levels():
    described = {
        "block": "mm_00",
        "weights": {"mm_00.image.mlp.fc1": {"errors": {"4": {"image": 0.006, "text": 0.004}, "8": {"image": 1.0}}}},
        "inputs": {"mm_00.image.attn.q_proj": {"layers": ["q", "k", "v"], "tiers": {"8": {"errors": [0.0, 0.002]}}}},
    }
    assert blocks.take_weight_errors([described], "4") == {("mm_00", "image", "fc1"): pytest.approx(0.01)}
    assert blocks.take_input_errors([described], "8") == {("mm_00", "image", "q, k, v"): pytest.approx(0.001)}


def test_a_layer_that_changes_nothing_does_not_stretch_the_colours():
    content, _ = build_sensitivity("mm_00", 2)
    content["weights"]["mm_00.text.attn.q_proj"]["errors"]["4"] = {"image": 0.0, "text": 0.0}
    axes = blocks.draw_layer_errors([content]).axes[1]
    assert "∞" in [text.get_text() for text in axes.texts]
    assert axes.collections[0].norm.vmin > -60


@pytest.mark.parametrize(("bits", "step", "expected"), [(8, 1.0, 4 / 256), (4, 0.25, 12 / 16), (4, 0.01, 1.0)])
def test_the_share_of_used_levels_is_shown(bits, step, expected):
    assert distributions.share_used(np.array([-1.0, 0.0, 1.0, 2.0]), np.array([1, 0, 2]), step, bits) == expected


def test_without_migration_the_panel_says_so():
    content, arrays = build_sensitivity("mm_00", 2, migration=False)
    figure = distributions.draw_distributions(content["distributions"], arrays)
    for row in np.array(figure.axes).reshape(-1, 3):
        assert [len(axes.texts) for axes in row] == [0, 0, 1]
        assert "no migration" in row[2].texts[0].get_text()


def test_migrated_values_may_be_missing():
    content, arrays = build_sensitivity("mm_00", 2)
    kept = {name: array for name, array in arrays.items() if "migrated" not in name}
    distributions.draw_distributions(content["distributions"], kept)


def test_a_model_without_fc2_inputs_is_drawn_with_a_note():
    figure = distributions.draw_distributions({}, {})
    assert figure.axes[0].texts[0].get_text() == "no fc2 input was observed"
