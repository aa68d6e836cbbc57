"""The model card is what the Hub reads and what a stranger can run, for every model."""

import ast
import re

import pytest
import yaml
from mlx.utils import tree_flatten

from taqmlx.models.diffusionkit import load_pipeline_module
from taqmlx.models.embedded_hard import HardModel
from taqmlx.planning import configuration
from taqmlx.planning.plan import MODEL_BLOCKS
from taqmlx.report.model_card import BASES, MLX_FLOOR, render_card
from taqmlx.report.tables import Body, Cell, Column, Table
from tests.plots.synthetic import build_frontier
from tests.support.report_study import make_evaluation

PROMPT = "a red circle left of a blue square"
CONFIG = configuration.complete({}, configuration.load_schema())
KINDS = Table("kinds", "", [Column("Kind", is_number=False)], [Body([[Cell("MLP, fc1")]])])
PACKED = {"bits_per_weight": 4.5, "model": {"bytes": 1_725_184}}


def render(model="embedded", frontier=None, **changes):
    config = CONFIG | {"model": model} | changes
    return render_card(
        config, make_evaluation(), frontier or build_frontier(), PACKED, KINDS, {"config.json": "f" * 64}
    )


def test_every_model_of_the_configuration_has_a_card():
    assert set(BASES) == set(MODEL_BLOCKS)


@pytest.mark.parametrize("model", list(BASES))
def test_the_hub_reads_base_model_and_license_in_the_head(model):
    head, base = yaml.safe_load(render(model).split("---\n")[1]), BASES[model]
    assert (head["license"], head.get("base_model", "")) == (base.licence, base.repo)
    assert ("license_link" in head) == (base.licence == "other")
    assert (head["library_name"], head["pipeline_tag"]) == ("mlx", "text-to-image")


@pytest.mark.parametrize("model", list(BASES))
def test_the_heading_begins_with_a_capital_letter_and_the_prompt_is_one_that_every_model_knows(model):
    card = render(model)
    assert re.search(r"^# [A-Z]", card, re.M)
    assert set(re.findall(r'--prompt "(.*?)"|generate_image\("(.*?)"', card)) <= {(PROMPT, ""), ("", PROMPT)}


@pytest.mark.parametrize("model", list(BASES))
def test_code_in_the_card_compiles_and_the_pipeline_is_diffusionkits(model):
    codes = re.findall(r"^```python\n(.*?)^```", render(model), re.M | re.S)
    assert len(codes) == (2 if BASES[model].pipeline else 1)
    for code in codes:
        ast.parse(code)
    assert not BASES[model].pipeline or hasattr(load_pipeline_module(), BASES[model].pipeline)


def test_the_card_of_the_hard_twin_says_what_it_lacks_and_no_other_card_does():
    assert [model for model in BASES if "It lacks\nwhat no exact transform makes:" in render(model)] == [
        "embedded-hard"
    ]


def test_the_loader_of_the_hard_twin_fits_its_packed_weights_whatever_its_parts():
    assert f"`{HardModel.__module__}.HardModel([]).load_transformer`" in render("embedded-hard")
    named, full = (
        {name: weight.shape for name, weight in tree_flatten(HardModel(parts).load_transformer().parameters())}
        for parts in ([], CONFIG["hardness"])
    )
    assert named == full


def test_the_method_is_the_configured_one():
    assert "learned rounding (AdaRound) block by block, then distillation of the whole model" in render()
    plain = render(engine="gptq", distil="none", bits_per_weight=None)
    assert "GPTQ" in plain
    assert "distillation" not in plain
    assert "integer program" not in plain


def test_the_least_version_of_mlx_is_named_with_the_reason():
    assert f"{MLX_FLOOR} or later: 0.32.1 has a faulty quantized product" in render()


def test_nn_quantize_stands_beside_at_equal_size_and_at_equal_quality():
    frontier = build_frontier()
    ours = [way for way in frontier["ways"] if way.get("asked") == 4.5]
    rows = re.findall(r"^\| (\**)(.+?)\1 \| ([\d.]+) \| ([-−\d.]+) \[", render(frontier=frontier), re.M)
    assert [title for mark, title, *_ in rows if mark] == [way["title"] for way in ours]
    plain = [(float(bits), float(median)) for mark, _, bits, median in rows if not mark]
    assert plain[0][0] <= 4.5
    assert plain[-1][1] >= max(round(way["median"]["value"], 1) for way in ours)


def test_lines_are_not_left_with_template_code():
    assert not re.search(r"\{[{%]|[%}]\}", render())
    assert "\n\n\n\n" not in render()
