"""The table of quantized layers follows from the files: by kind of layer, with unquantized parts beside it."""

import re
import subprocess
from argparse import Namespace

import pytest

from taqmlx.report.document_tables import show_kinds
from taqmlx.report.kinds import show_kind
from taqmlx.report.numbers import read_kinds_group
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json
from workflow_scripts.tools import describe_quantization


@pytest.fixture
def rows(quantized_study, capsys):
    """The printed table's rows as lists of cells, by kind."""
    describe_quantization.main(Namespace(config=quantized_study.quant_config))
    head, rule, *lines = capsys.readouterr().out.splitlines()
    assert set(rule) == set("| -:")
    assert head.startswith("| Kind | Layers |")
    return {cells[0]: cells[1:] for line in lines if (cells := line.strip("| ").split(" | "))}


def test_every_layer_is_counted_under_its_kind(rows, quantized_study):
    layers = read_json(quantized_study.quant_config)["layers"]
    counts = {kind: int(cells[0]) for kind, cells in rows.items() if cells[0] != "–"}
    total = counts.pop("All linear layers")
    assert total == len(layers) == sum(counts.values()) - counts["Patch embedding, a convolution"]
    assert counts["adaLN modulation"] == 11
    assert counts["Query, key and value"] == 30


def test_the_table_of_the_document_is_the_printed_one(quantized_study, capsys):
    describe_quantization.main(Namespace(config=quantized_study.quant_config))
    group = read_kinds_group(quantized_study.quant_config, None)
    assert show_kinds({"kinds": group}) == capsys.readouterr().out.strip()


def test_bits_are_those_of_the_configuration_and_of_the_file(rows):
    assert rows["MLP, fc1"][1:5] == ["4.00", "4", "4.50", "8"]
    assert rows["adaLN modulation"][1:3] == ["8.00", "8"]
    assert rows["Embedders of text, pooled text and timestep"][1:5] == ["16.00", "16", "16.00", "unquantized"]


def test_shares_add_up_and_products_have_no_weights(rows):
    shares = {kind: float(cells[-1]) for kind, cells in rows.items() if cells[-1] != "–"}
    total = shares.pop("All linear layers")
    assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    assert total == pytest.approx(100 - shares["Patch embedding, a convolution"], abs=0.11)
    assert rows["Attention products, of queries by keys and by values"] == ["–"] * 4 + ["unquantized", "–"]


def test_widths_are_averaged_over_weights():
    facts = [
        {"bits": 2, "inputs": [8], "weights": 300, "bytes": 90},
        {"bits": 6, "inputs": [4, 16], "weights": 100, "bytes": 80},
    ]
    texts = [cell.text for cell in show_kind("a kind", facts, 800)]
    assert texts == ["a kind", "2", "3.00", "2–6", "3.40", "4, 8, unquantized", "50.0"]


def test_the_command_prints_the_table_and_names_a_missing_file_in_one_line(quantized_study, python, tmp_path):
    command = [python, "-m", "workflow_scripts.tools.describe_quantization"]
    done = subprocess.run([*command, quantized_study.quant_config], capture_output=True, text=True, check=True)
    assert re.search(r"^\| All linear layers \| 74 \|", done.stdout, re.MULTILINE)
    missing = subprocess.run([*command, tmp_path / "absent.json"], capture_output=True, text=True, check=False)
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ")
    assert missing.stderr.count("\n") == 1
    with pytest.raises(UserError, match=r"absent\.json is missing"):
        describe_quantization.main(Namespace(config=tmp_path / "absent.json"))
