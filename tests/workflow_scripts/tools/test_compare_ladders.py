"""The ladder of the hard twin is written beside that of the plain model."""

import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from workflow_scripts.tools import compare_ladders


def write(path, **rungs):
    """A ladder of two rungs, of which the second gains over the first."""
    described = [
        {"rung": name, "title": name.upper(), "latent_snr": {"typical": pictures[1], "pictures": pictures}}
        for name, pictures in rungs.items()
    ]
    described[-1]["gain"] = {"base": described[0]["rung"], "value": 1.0, "interval_95": [0.5, 1.5]}
    count = len(described[0]["latent_snr"]["pictures"])
    write_json(path, {"format": "weights-ladder", "version": 1, "pictures": count, "rungs": described})
    return path


def compare(folder, plain, hard):
    out = folder / "ladder.md"
    words = ["--plain", str(plain), "--hard", str(hard), "--out", str(out)]
    compare_ladders.main(compare_ladders.build_arguments().parse_args(words))
    return out.read_text(encoding="utf-8")


def test_a_rung_has_both_ratios_the_loss_and_both_gains(tmp_path):
    plain = write(tmp_path / "plain.json", rtn=[9.0, 10.0, 11.0], gptq=[14.0, 15.0, 16.0])
    hard = write(tmp_path / "hard.json", rtn=[7.0, 8.0, 9.0], gptq=[13.0, 14.0, 15.0])
    text = compare(tmp_path, plain, hard)
    assert "| RTN | 10.00 | 8.00 | 2.00 [2.00, 2.00] |  |  |  |" in text
    gain = "1.00 [0.50, 1.50]"
    assert f"| GPTQ | 15.00 | 14.00 | 1.00 [1.00, 1.00] | {gain} | {gain} | RTN |" in text


def test_other_numbers_of_pictures_have_no_loss(tmp_path):
    plain = write(tmp_path / "plain.json", rtn=[9.0, 10.0], gptq=[14.0, 15.0])
    hard = write(tmp_path / "hard.json", rtn=[7.0, 8.0, 9.0], gptq=[13.0, 14.0, 15.0])
    text = compare(tmp_path, plain, hard)
    assert "2 pictures of the plain model and of 3 of its hard twin" in text
    assert "| RTN | 10.00 | 8.00 |  |  |  |  |" in text


def test_ladders_without_a_common_rung_are_rejected(tmp_path):
    plain = write(tmp_path / "plain.json", rtn=[9.0, 10.0])
    hard = write(tmp_path / "hard.json", gptq=[13.0, 14.0])
    with pytest.raises(UserError, match=r"has no rung of .*; make both ladders again"):
        compare(tmp_path, plain, hard)
