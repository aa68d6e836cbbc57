"""The report is one self-contained file with escaped text, and equal results give equal bytes."""

import re
import shutil

import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json
from taqmlx.store.folds_file import write_folds
from tests.plots.synthetic import build_folds
from tests.support.report_study import Results, draw_plot


@pytest.fixture
def results(quantized_study, tmp_path):
    results = Results(tmp_path, quantized_study.quant_config, quantized_study.statistics)
    results.write()
    return results


def read_table(text, name):
    """The rows of a table as lists of cells."""
    table = re.search(rf'<div class="table" id="{name}">.*?</table>', text, re.DOTALL).group()
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[re.sub(r"<small>.*?</small>|<[^>]*>", "", cell) for cell in row] for row in cells]


def test_every_layer_has_a_row_for_its_weight_and_one_for_its_input(results, quantized_study):
    text = results.render()
    names = set(read_json(quantized_study.quant_config)["layers"])
    for table in ("weights", "inputs"):
        assert {row[0] for row in read_table(text, table)[1:]} == names


def test_sizes_of_layers_are_those_of_the_packed_file(results, quantized_study):
    head, *rows = read_table(results.render(), "weights")
    row = dict(zip(head, next(row for row in rows if row[0] == "mm_00.image.mlp.fc1"), strict=True))
    # 512 x 128 codes of 4 bits, and of each 64 a scale and a zero point of 16
    assert (row["KB"], row["Bits per weight"], row["Bits"], row["Group"]) == ("36.9", "4.50", "4", "64")
    total = sum(float(row[head.index("KB")]) for row in rows)
    assert total == pytest.approx((quantized_study.quantized / "model.safetensors").stat().st_size / 1000, rel=0.1)


def test_measurements_are_joined_by_layer_and_block(results):
    text = results.render()
    head, *rows = read_table(text, "inputs")
    row = dict(zip(head, next(row for row in rows if row[0] == "mm_00.image.attn.k_proj"), strict=True))
    assert (row["4 bits, dB"], row["8 bits, dB"], row["Tiers"]) == ("24.1", "48.2", "8 / 6 / –")
    head, *rows = read_table(text, "blocks")
    assert dict(zip(head, rows[0], strict=True))["AdaRound, quantized inputs"] == "40.0"


def test_nothing_is_loaded_from_elsewhere_and_the_browser_is_told_to_forbid_it(results):
    text = results.render()
    assert "default-src &#39;none&#39;" in text
    assert not re.search(r"""(src|href|action)\s*=\s*["'](?!data:image/png;base64,|#)""", text)
    assert not re.search(r"url\(|@import|https?://", text)


def test_foreign_text_is_escaped(results):
    attack = "<script>alert('x')</script>"
    results.change("fid.json", lambda fid: fid["variants"]["w4a8"].update(title=attack))
    results.config |= {"model": attack, "negative_prompt": attack}
    text = results.render()
    assert attack not in text
    assert text.count("<script>") == 1
    assert text.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 3


def test_equal_results_give_equal_bytes_in_any_folder(results, tmp_path):
    text = results.render()
    moved = Results(tmp_path / "moved", results.quant_config, results.statistics)
    for name in ("adaround", "sensitivity", "plots", "benchmarks"):
        shutil.copytree(results.folder / name, moved.folder / name)
    for name in (
        "fid.json",
        "frontier.json",
        "distilled.report.json",
        "quant_config_multitier.json",
        "mixed_bits.json",
    ):
        shutil.copy(results.folder / name, moved.folder / name)
    assert moved.render() == text
    assert str(tmp_path) not in text


def test_the_bits_saved_come_first_among_tables_figures_and_tiles(results):
    text = results.render()
    assert re.findall(r'<div class="table" id="(.*?)"', text)[:2] == ["frontier-table", "quality"]
    assert re.search(r'<figure id="(.*?)"', text).group(1) == "frontier"
    what, value, note = re.search(
        r"<li><span>(.*?)</span><strong>(.*?)</strong><small>(.*?)</small></li>", text
    ).groups()
    assert (what, value) == ("Bits saved", "2.2 bits per weight")
    assert "at equal median quality; 95 %: 2.06 to 2.44" in note
    assert "4.49 bits per weight over all linear layers; 256 pictures of held-out captions" in note
    rows = read_table(text, "frontier-table")
    assert len([row for row in rows if row[0].startswith("learned")]) == 12
    assert text.count('<tr class="subject">') == 3  # both of ours at the configured size, and the variant


def test_the_default_report_names_mixed_bits_by_width_and_group(results):
    text = results.render()
    head, *rows = read_table(text, "weights")
    chosen = read_json(results.folder / "mixed_bits.json")["mixed"]["layers"]
    shown = {row[0]: row[head.index("Mixed")] for row in rows}
    assert shown == {name: f"{choice['bits']} / 128" for name, choice in chosen.items()}
    head, uniform, mixed = read_table(text, "mixed")
    assert (uniform[:3], mixed[:3]) == (["uniform", "3.50", "17.0"], ["mixed", "3.49", "20.0"])
    assert head[3:] == ["2 / 128", "3 / 64", "3 / 128", "4 / 128", "5 / 128", "6 / 128"]


def test_distillation_is_described_if_there_was_one(results):
    text = results.render()
    assert "20.00 dB before, 23.01 dB after distillation, on 100 points of held-out prompts" in text
    assert "Distillation of the whole model" not in results.render(distilled=None)


def test_full_precision_alone_has_a_report(results):
    results.change("fid.json", lambda fid: fid["variants"].pop("w4a8"))
    assert "No quantized variant is compared" in results.render()


def test_the_notes_name_simulated_parts_and_numbers_that_are_no_headline(results):
    text = results.render()
    assert "Weights are packed. 8-bit activations are simulated. FID of fewer than 10,000" in text


@pytest.mark.parametrize(
    "name", ["fid.json", "frontier.json", "mixed_bits.json", "sensitivity/mm_02.json", "plots/error_growth.png"]
)
def test_a_missing_file_is_named_in_one_line(results, name):
    sensitivity = sorted((results.folder / "sensitivity").glob("*.json"))
    (results.folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing") as caught:
        results.render(sensitivity=sensitivity)
    assert "\n" not in str(caught.value)


def test_a_configuration_that_is_not_json_is_rejected(results):
    with pytest.raises(UserError, match="--config is not JSON"):
        results.render(config="{")


def test_folds_have_a_section_if_the_configuration_has_any(results):
    folds, _ = build_folds(1)
    path = results.folder / "folds.safetensors"
    write_folds(path, folds, {}, {"model": {}})
    drawn = [results.folder / "plots" / f"{name}.png" for name in ("fold_ranges", "fold_spread")]
    for plot in drawn:
        draw_plot(plot, 400, 300)
    text = results.render(folds=path, plots=[*results.plots, *drawn])
    assert [row[0] for row in read_table(text, "folds-table")[1:]] == [fold.site for fold in folds]
    assert all(f'<figure id="{plot.stem}">' in text for plot in drawn)
    assert 'href="#folds"' in text
    assert "folds-table" not in results.render()
    assert 'href="#folds"' not in results.render()
