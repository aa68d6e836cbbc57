"""The ladder table, with numbers that can be checked by hand."""

import json
from argparse import Namespace

import numpy as np
import pytest

from taqmlx.planning import ladder
from taqmlx.store.block_report import write_report
from taqmlx.store.errors import UserError
from taqmlx.store.tensors import read_sealed_tensors, write_sealed_tensors
from workflow_scripts.ladder.write_ladder import main

BLOCKS = ("mm_00", "mm_01")


def write_rung(folder, latents):
    write_sealed_tensors(folder / "latents.safetensors", {"latents": latents.astype(np.float32)}, {"rung": folder.name})


def write_reports(folder, error):
    """Reports whose chosen engine, AdaRound, has `error` in one stream and a tenth of it in the other."""
    for block in BLOCKS:
        right = {"quantized_inputs": {"image": error, "text": error / 10}}
        wrong = {"quantized_inputs": {"image": 1.0, "text": 1.0}}
        report = {"chosen": "adaround", "errors": {"adaround": right, "rtn": wrong}}
        write_report(folder / f"{block}.report.json", block, report)


@pytest.fixture
def results(tmp_path):
    """Rung i is 10 + i dB from the reference in its first picture, and 10 dB less near in the others."""
    reference = np.ones((3, 2, 2, 4))
    for index, rung in enumerate([*ladder.RUNGS, ladder.OWN, ladder.PACKED]):
        is_exact = rung == ladder.FULL_PRECISION
        scale = 1 + np.sqrt(10.0 ** -np.array([1 + index / 10, index / 10, index / 10]))[:, None, None, None]
        write_rung(tmp_path / "ladder" / rung, reference if is_exact else reference * scale)
        write_reports(tmp_path / "ladder" / rung, 0.01)
    write_reports(tmp_path / "adaround", 0.001)
    return tmp_path


def run(results):
    out = results / "weights_ladder.json"
    main(Namespace(ladder=results / "ladder", adaround=results / "adaround", out=out))
    return json.loads(out.read_text()), out.with_suffix(".md").read_text()


def test_latents_are_compared_picture_by_picture(results):
    written, _ = run(results)
    assert written["pictures"] == 3
    for index, rung in enumerate(written["rungs"], 1):
        found = rung["latent_snr"]
        assert found["pictures"] == pytest.approx([10 + index, index, index], abs=0.05)
        assert (found["typical"], found["worst"]) == (np.median(found["pictures"]), min(found["pictures"]))


def test_block_errors_are_those_of_the_chosen_roundings(results):
    written, _ = run(results)
    first, own, packed = written["rungs"][0], *written["rungs"][-2:]
    assert first["block_snr"]["blocks"]["mm_01"] == pytest.approx({"image": 20, "text": 30})
    assert (first["block_snr"]["typical"], first["block_snr"]["worst"]) == pytest.approx((25, 20))
    assert (own["rung"], packed["rung"]) == (ladder.OWN, ladder.PACKED)
    for rung in (own, packed):  # of the same blocks: distilled, these have no reports of their own
        assert rung["block_snr"]["worst"] == pytest.approx(30)
        assert rung["chosen"] == dict.fromkeys(BLOCKS, "adaround")


def test_the_table_has_a_row_per_rung_without_the_reference(results):
    written, text = run(results)
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(lines) == len(written["rungs"]) == len(ladder.RUNGS) - 1 + 2
    assert " 20.00 |" in lines[0]
    assert ladder.PACKED_TITLE in lines[-1]


def test_a_rung_without_latents_is_named(results):
    (results / "ladder" / "w4a8_joint" / "latents.safetensors").unlink()
    with pytest.raises(UserError, match="w4a8_joint"):
        run(results)


def test_equal_latents_have_a_finite_ratio(results):
    exact, _ = read_sealed_tensors(results / "ladder" / ladder.FULL_PRECISION / "latents.safetensors")
    write_rung(results / "ladder" / ladder.PACKED, exact["latents"])
    written, _ = run(results)
    assert written["rungs"][-1]["latent_snr"]["worst"] == 150


def test_a_gain_is_the_median_difference_to_the_base(results):
    written, text = run(results)
    by_name = {rung["rung"]: rung for rung in written["rungs"]}
    places = list(by_name)
    for rung, base in ladder.BASES.items():
        gain = by_name[rung]["gain"]
        assert gain["base"] == base
        assert gain["value"] == pytest.approx(places.index(rung) - places.index(base), abs=0.1)
        assert gain["interval_95"][0] <= gain["value"] <= gain["interval_95"][1]
    assert "gain" not in by_name["w8a8_rtn"]
    assert "| over |" in text
