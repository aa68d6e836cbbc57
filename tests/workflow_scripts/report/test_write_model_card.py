"""The folder of packed weights, completed for publication: model card, loader, pictures, report."""

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from taqmlx.models import load_quantized
from taqmlx.report.model_card import BASES
from taqmlx.store.checksum_files import name_sums, read_sums
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, read_json
from tests.support.report_study import Results
from workflow_scripts.report import write_model_card
from workflow_scripts.weights import write_loader

FILES = ["README.md", "config.json", "load_quantized.py", "model.safetensors", "pictures.png"]


@pytest.fixture
def results(quantized_study, tmp_path):
    """A report and what it is made of, with the packed weights in a folder of their own."""
    shutil.copytree(quantized_study.folder / "quantized", tmp_path / "quantized")
    for path in quantized_study.folder.glob("quant_config.*"):
        shutil.copy(path, tmp_path)
    results = Results(tmp_path, tmp_path / "quant_config.json", quantized_study.folder / "activations/statistics.json")
    results.write()
    results.render()
    write_loader.main(Namespace(out=tmp_path / "quantized" / "load_quantized.py"))
    return results


def write_card(results, **changes):
    folder = results.folder / "quantized"
    named = {
        "config": json.dumps(results.config),
        "fid": results.folder / "fid.json",
        "frontier": results.folder / "frontier.json",
        "quant_config": results.quant_config,
        "loader": folder / "load_quantized.py",
        "pictures": results.folder / "plots" / "picture_grid.png",
        "report": results.folder / "report.html",
        "out": folder / "README.md",
    }
    write_model_card.main(Namespace(**(named | changes)))
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_folder_has_all_that_is_published_and_vouches_for_it(results):
    write_card(results)
    folder = results.folder / "quantized"
    assert {*FILES, "quantization_report.html"} == {path.name for path in folder.iterdir() if path.suffix != ".sha256"}
    assert (folder / "quantization_report.html").read_bytes() == (results.folder / "report.html").read_bytes()
    for name in ("README.md", "load_quantized.py", "pictures.png", "quantization_report.html"):
        assert read_sums(name_sums(folder / name)) == {name: hash_file(folder / name)}


def test_sizes_and_digests_are_those_of_the_files(results):
    card, folder = write_card(results), results.folder / "quantized"
    bits = read_json(folder / "config.json")["bits_per_weight"]
    assert f"# {BASES['embedded'].title}, {bits:.2f} bits per weight\n" in card
    for name in ("model.safetensors", "config.json", "load_quantized.py"):
        assert f"| `{name}` | `{hash_file(folder / name)}` |" in card


def test_quality_has_intervals_the_number_of_pictures_and_nn_quantize_beside_it(results):
    frontier = read_json(results.folder / "frontier.json")
    card = write_card(results)
    assert f"{frontier['n']:,} pictures of held-out captions" in card
    for way in frontier["ways"]:
        if way.get("asked") == results.config["bits_per_weight"]:
            low, high = way["median"]["interval_95"]
            assert f"| **{way['title']}** | {way['bits_per_weight']:.2f} |" in card
            assert f"{way['median']['value']:.1f} [{low:.1f}, {high:.1f}]" in card
    assert re.search(r"^\| nn\.quantize, .*\|$", card, re.M)
    assert "simulated" in card


def test_the_loader_is_the_librarys_own_and_imports_mlx_alone(results):
    text = (results.folder / "quantized" / "load_quantized.py").read_text(encoding="utf-8")
    assert text == Path(load_quantized.__file__).read_text(encoding="utf-8")
    imported = re.findall(r"^(?:from|import) (\w+)", text, re.M)
    assert set(imported) == {"json", "pathlib", "typing", "mlx"}
    assert len(text.splitlines()) <= 60


def test_equal_results_give_equal_cards(results):
    assert write_card(results) == write_card(results)


def test_no_path_of_the_machine_is_in_the_card(results):
    assert str(results.folder) not in write_card(results)


def test_a_damaged_checkpoint_is_named(results):
    path = results.folder / "quantized" / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"version": 2', '"version": 9'), encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json"):
        write_card(results)
