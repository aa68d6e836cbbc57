"""Single blocks, and the blocks that a changed setting or file requires."""

import pytest

from tests.support.workflow_run import WEIGHTS, Workflow, read_tree

pytestmark = pytest.mark.slow

BEFORE_THE_BLOCKS = [
    *["capture_blocks"] * 2,
    *["collect_shard"] * 3,
    "create_store",
    "encode_prompts",
    "gather_calibration",
    "measure_costs",
    "search_bits",
    *["write_parameters"] * 6,
]
# The rows are temporary: who needs one block again records them again, and then every block is asked for.
BLOCKS_AGAIN = [
    *["capture_blocks"] * 2,
    *["optimise_block"] * 5,
    "distil",
    "pack_weights",
    "quant_config",
    "write_quant_config",
]
ONE_MORE_RULE = [*WEIGHTS, {"layers": "mm_02.*", "bits": 6}]
# Every block by its own rules: with a search, the bits of one hang together with those of all.
BY_RULES = {"bits_per_weight": None, "distil": "none"}


def name_block(workflow: Workflow, block: str) -> str:
    return str(workflow.results / "adaround" / f"{block}.safetensors")


def list_written(said: str) -> list[str]:
    """The blocks a run made, and not those that it found finished."""
    return sorted(line.split(":")[0] for line in said.splitlines() if " is written to " in line)


def read_blocks(workflow: Workflow) -> dict[str, bytes]:
    return {name: content for name, content in read_tree(workflow.results).items() if name.startswith("adaround/")}


def test_a_block_needs_neither_statistics_nor_other_blocks(workflow):
    expected = sorted([*BEFORE_THE_BLOCKS, "optimise_block", "write_block_parameters"])
    assert workflow.list_jobs(name_block(workflow, "mm_00")) == expected
    done = workflow.run(name_block(workflow, "mm_03"))
    assert done.returncode == 0, done.stdout
    assert [path.name for path in sorted((workflow.results / "adaround").iterdir())] == [
        "mm_03.json",
        "mm_03.report.json",
        "mm_03.safetensors",
    ]
    assert not (workflow.results / "activations").exists()
    assert not list((workflow.results / "block_inputs.zarr").glob("[0-9]*"))


def test_an_unknown_block_is_no_target(workflow):
    refused = workflow.run(name_block(workflow, "mm_05"), "-n")
    assert refused.returncode == 1
    assert "No rule to produce" in refused.stdout


def test_blocks_before_a_chained_one_come_first(workflow):
    workflow.configure(block_inputs="quantized")
    expected = [*BEFORE_THE_BLOCKS, *["optimise_block"] * 3, *["write_block_parameters"] * 3]
    assert workflow.list_jobs(name_block(workflow, "mm_02")) == sorted(expected)


def test_a_deleted_block_is_remade_alone_and_with_the_same_bytes(copy):
    before = read_tree(copy.results)
    for path in (copy.results / "adaround").glob("mm_02*"):
        path.unlink()
    assert copy.list_jobs("adaround", "quant_config") == sorted([*BLOCKS_AGAIN, "adaround"])
    done = copy.run("adaround", "quant_config")
    assert done.returncode == 0, done.stdout
    assert list_written(done.stdout) == ["mm_02"]
    assert "distilled.safetensors is already finished" in done.stdout
    assert read_tree(copy.results) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adaround_iterations": 7}, "mm_00 was made with other parameters (adaround_iterations: 6 there, 7 in"),
        (
            {"weights": ONE_MORE_RULE},
            "mm_02 was made with other parameters (layers.mm_02.image.adaLN_modulation.weight",
        ),
    ],
    ids=["iterations", "a rule"],
)
def test_a_setting_that_would_replace_blocks_stops_before_any_job(copy, changes, words):
    copy.configure(**changes)
    refused = copy.run("quant_config")
    assert refused.returncode == 1
    (line,) = [line for line in refused.stdout.splitlines() if line.startswith("error:")]
    assert words in line
    assert "overwrite=true" in line
    assert "optimise_block" not in refused.stdout


def test_with_overwrite_a_setting_of_the_blocks_reruns_them_and_their_dependents(copy):
    copy.configure(adaround_iterations=7, overwrite=True)
    assert copy.list_jobs("quant_config") == sorted([*BLOCKS_AGAIN, *["write_block_parameters"] * 5])


@pytest.mark.whole
def test_a_rule_for_one_block_remakes_that_block_and_removing_it_restores_the_bytes(workflow):
    workflow.configure(**BY_RULES, overwrite=True)
    made = workflow.run("quant_config")
    assert made.returncode == 0, made.stdout
    before, block = read_blocks(workflow), name_block(workflow, "mm_02")
    workflow.configure(weights=ONE_MORE_RULE)
    alone = [*["capture_blocks"] * 2, "optimise_block", "write_block_parameters"]
    assert workflow.list_jobs(block) == alone
    # The layers of no block have no rule of their own, but the parameters of their stage have all rules.
    again = [job for job in BLOCKS_AGAIN if job != "distil"]
    assert workflow.list_jobs("quant_config") == sorted(
        [*again, "round_shared", "write_block_parameters", *["write_parameters"] * 2]
    )
    assert workflow.run(block).returncode == 0
    after = read_blocks(workflow)
    assert {name for name in before if after[name] != before[name]} == {
        f"adaround/mm_02{end}" for end in (".json", ".report.json", ".safetensors")
    }
    workflow.configure(weights=WEIGHTS)
    done = workflow.run(block)
    assert list_written(done.stdout) == ["mm_02"]
    assert read_blocks(workflow) == before


def test_a_setting_of_the_activations_does_not_rerun_the_statistics(copy):
    copy.configure(activations=[{"layers": "mm_*", "bits": 6}], overwrite=True)
    jobs = copy.list_jobs("quant_config")
    parameters = [*["write_block_parameters"] * 5, *["write_parameters"] * 3]
    assert jobs == sorted([*BLOCKS_AGAIN, "round_shared", *parameters])


def test_without_a_size_and_a_distillation_nothing_is_searched_or_distilled(workflow):
    workflow.configure(**BY_RULES)
    jobs = workflow.list_jobs("quant_config")
    assert not {"measure_costs", "search_bits", "distil"} & set(jobs)
    assert (jobs.count("optimise_block"), jobs.count("round_shared"), jobs.count("pack_weights")) == (5, 1, 1)


def test_another_size_repeats_the_search_and_no_measurement(copy):
    copy.configure(bits_per_weight=5, overwrite=True)
    jobs = copy.list_jobs("quant_config")
    parameters = [*["write_block_parameters"] * 5, *["write_parameters"] * 3]
    assert jobs == sorted([*BLOCKS_AGAIN, "round_shared", "search_bits", *parameters])


def test_a_setting_of_the_distillation_reruns_no_block(copy):
    copy.configure(distil="scales")
    assert copy.list_jobs("quant_config") == [
        *("distil", "pack_weights", "quant_config", "write_parameters", "write_quant_config")
    ]


def test_the_quick_configuration_plans_the_whole_main_job(workflow, tmp_path):
    workflow.config.write_text(f"results_dir: {tmp_path / 'quick'}\n")
    shown = workflow.run("-n", "--quiet", "rules", "--configfile", "config/quick.yaml")
    assert shown.returncode == 0, shown.stdout
