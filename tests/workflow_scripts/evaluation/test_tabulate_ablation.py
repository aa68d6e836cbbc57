"""The ablation table has a row per variant, with the paper's number beside it."""

from taqmlx.planning import ablation
from taqmlx.runtime.entry import build_parser
from taqmlx.store.files import write_json
from workflow_scripts.evaluation import tabulate_ablation


def describe(title, value, **more):
    distance = {"value": value, "interval_95": [value / 2, 2 * value], "n": 8}
    return {"title": title, "fid_to_real": distance, "fid_to_full_precision": distance, "prompt_accuracy": None} | more


def test_rows_have_intervals_and_the_number_of_the_paper(tmp_path):
    paired = {"paired": {"latent_snr_db": {"median": 20.04}}}
    accuracy = {"prompt_accuracy": {"all": {"value": 0.9875}}}
    variants = {name: describe(name, 0.5, **paired | accuracy) for name in ablation.VARIANTS}
    variants["fp"] = describe("full precision", 2)
    floor = {"fp_other_seeds": describe("other seeds", 1, **paired), "fp_rerun": describe("again", 1, **paired)}
    write_json(
        tmp_path / "scores.json",
        {"format": "evaluation", "n": 2048, "steps": 28, "variants": variants, "noise_floor": floor},
    )
    arguments = ["--scores", str(tmp_path / "scores.json"), "--out", str(tmp_path / "table.md")]
    tabulate_ablation.main(build_parser("", "scores", "out").parse_args(arguments))
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("FID of 2,048 images (28 steps)")
    rows = text.splitlines()[-len(variants) - 1 :]
    assert [row.split("|")[1].strip() for row in rows] == ["full precision", *ablation.ROWS, "w4a8", "other seeds"]
    assert rows[0] == "| full precision |  | 2.00 [1.00, 4.00] |  |  | 5.00 |"
    assert rows[4] == "| paper_joint | 0.500 [0.250, 1.000] | 0.50 [0.25, 1.00] | 20.0 | 98.8 % | 6.61 |"
    assert rows[-1] == "| other seeds | 1.000 [0.500, 2.000] | 1.00 [0.50, 2.00] | 20.0 |  |  |"
