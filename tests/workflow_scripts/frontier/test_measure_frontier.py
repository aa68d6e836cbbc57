"""The frontier from its pictures: drawn in every way, then compared."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from taqmlx.planning import configuration, plain_ways, plan
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.tensors import read_sealed_tensors
from workflow_scripts.frontier import draw_frontier, measure_frontier

CAPTIONS = ["a red circle", "a large blue square on a black background"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the parameters, the prompts, full precision's pictures, and those of two ways of nn.quantize."""
    folder = tmp_path_factory.mktemp("frontier")
    settings = configuration.complete({"frontier_pictures": 4, "evaluation_steps": 3}, configuration.load_schema())
    write_json(folder / "params.json", plan.select_parameters("measure_frontier", settings, []))
    pictures = [{"prompt": index % 2, "seed": 10**6 + index} for index in range(6)]
    prompts = [{"text": text, "asked": None} for text in CAPTIONS]
    write_json(folder / "prompts.json", {"format": "evaluation-prompts", "prompts": prompts, "pictures": pictures})
    draw(folder, "reference.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_ways, "WIDTHS", (4, 8))
        draw(folder, "plain.json", family="groups_of_64")
    return folder


def draw(folder: Path, out: str, **options) -> None:
    """Run the entry that draws."""
    given = {"family": None, "quant_config": [], "reference": folder / "reference.safetensors"} | options
    draw_frontier.main(
        Namespace(params=folder / "params.json", prompts=folder / "prompts.json", out=folder / out, **given)
    )


def make_learned(folder: Path, out: str, bits: float, gain: float) -> Path:
    """Pictures of a size of ours, as much nearer than those of the plain 4 bits as `gain` says, in dB."""
    content = read_json(folder / "plain.json")
    way = content["ways"][0] | {"name": "w_a8", "title": "learned, inputs of 8 bits", "bits_per_weight": bits}
    way["ratios"] = [ratio + gain for ratio in way["ratios"]]
    write_json(folder / out, content | {"ways": [way]})
    return folder / out


def measure(folder: Path, learned: list[Path], sizes: list[float]) -> dict:
    """Run the entry that compares; what it wrote."""
    out = folder / "frontier.json"
    measure_frontier.main(Namespace(plain=[folder / "plain.json"], learned=learned, sizes=sizes, out=out))
    return read_json(out)


def test_the_first_pictures_of_the_evaluation_are_drawn(folder):
    latents, about = read_sealed_tensors(folder / "reference.safetensors")
    assert latents["latents"].shape == (4, 8, 8, 16)
    assert about["parameters"]["frontier_pictures"] == 4


def test_more_bits_are_closer_to_full_precision(folder):
    four, eight = read_json(folder / "plain.json")["ways"]
    assert (four["bits_per_weight"], eight["bits_per_weight"]) == (4.5, 8.5)
    assert np.median(eight["ratios"]) > np.median(four["ratios"]) + 10


def test_equal_quality_with_fewer_bits_is_a_saving(folder):
    four, eight = read_json(folder / "plain.json")["ways"]
    gain = np.median(eight["ratios"]) - np.median(four["ratios"])
    content = measure(folder, [make_learned(folder, "learned.json", 4.5, gain)], [4.5])
    saved = next(way["bits_saved"] for way in content["ways"] if "bits_saved" in way)
    assert saved["median"]["value"] == pytest.approx(4.0, abs=1e-6)
    assert content["n"] == 4


def test_the_table_has_our_sizes_among_those_of_the_frontier(folder):
    measure(folder, [make_learned(folder, "learned.json", 4.5, 3.0)], [4.5])
    rows = [line for line in (folder / "frontier.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert [row.split("|")[1].strip() for row in rows] == [
        "`nn.quantize`, 4 bits, groups of 64",
        "this project, 8-bit inputs (simulated)",
        "`nn.quantize`, 8 bits, groups of 64",
    ]


def test_pictures_of_another_run_are_named(folder, tmp_path):
    content = read_json(make_learned(folder, "learned.json", 4.5, 3.0))
    other = tmp_path / "other.json"
    write_json(other, content | {"pictures": "0" * 64})
    with pytest.raises(UserError, match=r"other.json was made with other pictures .*run draw_frontier again"):
        measure(folder, [other], [4.5])
