"""The command that plots the quality of the variants."""

import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from tests.plots.synthetic import build_full_precision, build_variant
from workflow_scripts.plots import plot_evaluation


def run(folder, scores, *options):
    write_json(folder / "scores.json", {"format": "evaluation"} | scores)
    words = ["--scores", str(folder / "scores.json"), "--out", str(folder / "plots"), *options]
    plot_evaluation.main(plot_evaluation.build_arguments().parse_args(words))
    return {path.name for path in (folder / "plots").iterdir()}


VARIANTS = {"fp": build_full_precision(), "w4a8": build_variant("W4A8", 20.0)}


def test_figures_of_two_score_files_can_be_in_one_folder(tmp_path):
    names = {f"{name}{suffix}" for name in ("error_growth", "size_quality") for suffix in (".png", ".svg", ".sha256")}
    assert run(tmp_path, {"variants": VARIANTS}) == names
    both = run(tmp_path, {"variants": VARIANTS}, "--prefix", "ablation_")
    assert both == names | {f"ablation_{name}" for name in names}


def test_scores_without_sizes_are_rejected(tmp_path):
    variants = {name: {key: about[key] for key in about if key != "size"} for name, about in VARIANTS.items()}
    with pytest.raises(UserError, match="run score again"):
        run(tmp_path, {"variants": variants})
