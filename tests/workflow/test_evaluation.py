"""The evaluation in the workflow: its inputs, and what a changed setting redraws."""

import json

import pytest

pytestmark = pytest.mark.slow

SMALL = {"evaluation_pictures": 4, "evaluation_steps": 2, "evaluation_shards": 2, "evaluation_variants": ["fp", "w4a8"]}
SMALL |= {"frontier_sizes": [4.5], "frontier_pictures": 4}
DRAWN = 4  # full precision, w4a8, and the two of the noise floor


@pytest.mark.whole
def test_the_evaluation_uses_the_main_job_and_is_not_drawn_twice(copy):
    copy.configure(**SMALL)
    target = str(copy.results / "fid.json")
    expected = ["draw_reference", "measure_growth", "score", "write_evaluation_prompts"]
    expected += ["extract_features", "generate_images"] * 2 * DRAWN + ["compare_variant"] * DRAWN
    expected += ["extract_reference_features"] * 2 + ["measure_size"] * 2 + ["write_study_parameters"] * 8
    expected += ["draw_frontier_reference", "draw_size", "measure_frontier", "write_parameters"] + ["draw_plain"] * 4
    assert copy.list_jobs(target) == sorted(expected)
    done = copy.run(target, cores=2)
    assert done.returncode == 0, done.stdout
    scores = json.loads((copy.results / "fid.json").read_text())
    assert list(scores["variants"]) == ["fp", "w4a8"]
    assert list(scores["bits_saved"]["ways"]) == ["w_a16", "w_a8"]
    assert copy.list_jobs(target) == []
    copy.configure(evaluation_variants=["fp"])
    assert copy.list_jobs(target) == ["score", "write_study_parameters"]
    copy.configure(evaluation_cfg=2)
    assert copy.list_jobs(target).count("generate_images") == 2 * (DRAWN - 1)


def test_the_ablation_is_a_separate_evaluation(workflow):
    workflow.configure(**SMALL | {"ablation_pictures": 5})
    jobs = workflow.list_jobs("ablation")
    rows = 10  # beside full precision and the best
    assert jobs.count("optimise_rung_block") == 5 * rows
    assert jobs.count("compare_variant") == rows + DRAWN
    assert jobs.count("generate_images") == 2 * (rows + DRAWN)
    assert {"optimise_block", "pack_weights", "write_quant_config", "tabulate_ablation"} <= set(jobs)


def test_full_precision_alone_needs_no_quantization(workflow):
    workflow.configure(**SMALL | {"evaluation_variants": ["fp"]})
    jobs = workflow.list_jobs(str(workflow.results / "fid.json"))
    assert not {"collect_shard", "optimise_block", "pack_weights"} & set(jobs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluation_seed": 3}, "evaluation_seed: the pictures use the seeds 3 to"),
        ({"evaluation_pictures": 3}, "evaluation_pictures: 3"),
        ({"inception": {"path": "weights.pth", "sha256": "short"}}, "inception"),
    ],
    ids=["seeds", "too few", "no sha256"],
)
def test_an_invalid_evaluation_is_rejected_before_any_job(workflow, changes, words):
    workflow.configure(**SMALL | changes)
    refused = workflow.run(str(workflow.results / "fid.json"), "-n")
    assert refused.returncode == 1
    (line,) = [line for line in refused.stdout.splitlines() if line.startswith("error:")]
    assert words in line
