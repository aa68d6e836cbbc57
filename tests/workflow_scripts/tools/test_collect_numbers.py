"""Numbers are collected from results and fill the tables of the documents."""

from argparse import Namespace

import numpy as np
import pytest

from taqmlx.planning import ablation, ladder, plain_ways
from taqmlx.report.document_tables import TABLES, find_nearest
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_plain_json, write_json, write_plain_json
from taqmlx.store.frontier_file import PICTURES
from tests.support.report_study import SUMMARY, make_evaluation, make_variant
from tools.benchmarks.table import Row, as_records
from workflow_scripts.frontier import measure_frontier
from workflow_scripts.tools import collect_numbers, fill_numbers

ABOUT = {"parameters": {"evaluation_steps": 28, "evaluation_cfg": 3.0}, "pictures": "0" * 64, "model": {}, "source": {}}
TSV = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n{}\n"


SCALE = {
    "1,000": {"dry run: s": 2.0, "store: MB": 100},
    "10,000": {"dry run: s": 10.0, "store: MB": 1000},
    "10,000 by 20": {"dry run: s": 0.5},
}


def make_way(name, title, bits, median):
    ratios = (median + np.linspace(-5, 5, 21)).tolist()
    return {"name": name, "title": title, "bits_per_weight": bits, "ratios": ratios}


def write_frontier(folder):
    """Every way of nn.quantize at 6 dB a bit, and ours at two sizes as good as two bits more."""
    plain, learned = [], []
    for family in plain_ways.FAMILIES:
        ways = [
            make_way(f"plain_{p.modulation_bits}_{p.bits}_g{p.group_size}", p.title, bits, 6 * bits)
            for p in plain_ways.list_plain(family)
            for bits in [(p.modulation_bits + 2 * p.bits) / 3 + 32 / p.group_size]
        ]
        plain.append(folder / f"{family}.json")
        write_json(plain[-1], PICTURES | ABOUT | {"ways": ways})
    for size in (3.5, 4.5):
        titles = {"w_a16": "learned, inputs unrounded", "w_a8": "learned, inputs of 8 bits"}
        ways = [make_way(name, title, size - 0.01, 6 * size + 12 - (name == "w_a8")) for name, title in titles.items()]
        learned.append(folder / f"{size}.json")
        write_json(learned[-1], PICTURES | ABOUT | {"ways": ways})
    measure_frontier.main(
        Namespace(plain=plain, learned=learned, sizes=[3.5, 4.5], out=folder / "results" / "frontier.json")
    )


def write_ladder(folder):
    """Two rungs."""
    rungs = [
        {
            "rung": name,
            "title": ladder.RUNGS[name][0].strip(),
            "latent_snr": {"typical": 20.0 + place, "worst": 1.0, "pictures": [1.0, 20.0]},
            "block_snr": {"typical": 30.0, "worst": 25.0, "blocks": {"mm_00": {"image": 30.0}}},
            "chosen": {"mm_00": "rtn"},
        }
        for place, name in enumerate(("w4a8_joint", "w4a8_shift"))
    ]
    write_json(
        folder / "weights_ladder.json", {"format": "weights-ladder", "version": 1, "pictures": 64, "rungs": rungs}
    )


def write_evaluations(folder):
    """The evaluation, with a multitier variant, and the ablation."""
    fid = make_evaluation()
    fid["variants"]["w4a8"]["size"]["precision"] = "W4A8"
    fid["variants"]["multitier"] = make_variant("packed weights, inputs of 4 bits", 0.05, 19.9, 4.5, [4, 6])
    fid["variants"]["multitier"]["size"]["precision"] = "W4A4-8"
    write_json(folder / "fid.json", fid)
    rows = {name: make_variant(title, 0.02, 20.0, 4.5, [8]) for name, (title, _) in ablation.ROWS.items()}
    variants = {"fp": fid["variants"]["fp"], **rows, "w4a8": fid["variants"]["w4a8"]}
    write_json(folder / "ablation.json", fid | {"n": 2048, "variants": variants})


def write_calibration_sets(folder):
    """Two cells of the bench of calibration sets, the larger one first by name."""
    for prompts in (1024, 64):
        quality = {key: {"value": 20.0, "interval_95": [19.0, 21.0]} for key in ("median", "p5", "otherwise")}
        cell = {"prompts": prompts, "guidance": "mixed", "captured": 1024, "seconds": 90.0, "captured_bytes": 2e6}
        write_json(folder / f"{prompts}.json", cell | {"gptq": quality, "distilled": quality})


def write_outliers(folder):
    """Two inputs of a role, of which one has no offset, in two models; and the errors of one model."""
    first, second = {"spread": 3.0, "drift": 2.0}, {"spread": 9.0, "drift": 1.0, "offset": 0.5}
    own = {
        "mm_00.text.mlp.fc1": first,
        "mm_01.text.mlp.fc1": second,
        "final_layer.linear": second,
        "context_embedder": first,
    }
    models = {"sd3-medium": own, "embedded": {name: own[name] for name in list(own)[:1]}}
    write_json(folder / "inputs.json", {"format": "inputs-compared", "version": 1, "models": models})
    content = {"format": "bench-outliers", "version": 1, "about": {"pictures": 64}, "models": {"all": {"w4": 0.5}}}
    write_json(folder / "bench_outliers.json", content)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of results that has everything but a packed checkpoint."""
    folder = tmp_path_factory.mktemp("numbers") / "results"
    folder.mkdir()
    write_frontier(folder.parent)
    write_ladder(folder)
    write_evaluations(folder)
    write_calibration_sets(folder / "bench_calibration")
    write_outliers(folder)
    write_json(folder / "quant_config_multitier.json", {"analysis": {"summary": SUMMARY}})
    rows = [
        Row("ours, 1 worker / torch twin, 1 worker", 0.84159, "x", kernels="Haswell / PyTorch AVX2"),
        Row("what being resumable costs", 1.9, "%", kernels="Haswell"),
    ]
    write_json(folder / "bench.json", as_records(rows))
    write_plain_json(folder / "scale.json", SCALE)
    for stage, row in (
        ("collect_shard/000", "9\t0:00:09\t100.0\t0\t0\t0\t0\t0\t0\t60.0"),
        ("distil", "9\t0:00:09\t400.0\t0\t0\t0\t0\t0\t0\t120.0"),
        ("write_quant_config", "1\t0:00:01\t-\t-\t-\t-\t-\t-\t-\tNA"),
        ("generate_images/fp", "9\t0:00:09\t900.0\t0\t0\t0\t0\t0\t0\t600.0"),
    ):
        path = folder / "benchmarks" / f"{stage}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TSV.format(row))
    return folder


def collect(results, out, *options):
    """What the command writes."""
    arguments = ["--results", str(results), "--out", str(out), *options]
    collect_numbers.main(collect_numbers.build_arguments().parse_args(arguments))
    return read_plain_json(out)


@pytest.fixture(scope="module")
def numbers(results, tmp_path_factory):
    return collect(results, tmp_path_factory.mktemp("out") / "numbers.json", "--machine", "two cores")


def test_the_frontier_is_kept_without_single_pictures(numbers):
    group = numbers["frontier"]
    count = sum(len(list(plain_ways.list_plain(family))) for family in plain_ways.FAMILIES)
    assert group["measured"] == {
        **{
            "configuration": "config/config.yaml",
            "machine": "two cores",
            "asked": 4.5,
            "sizes": 2,
            "plain_ways": count,
        },
        **{"pictures": 21, "steps": 28, "guidance": 3.0},
    }
    own = group["ways"]["w_a8_4_5"]
    assert own["median"]["value"] == pytest.approx(38)
    assert own["equal_bits"] == pytest.approx(38 / 6, rel=1e-5)
    assert "ratios" not in own
    assert {"w_a16_3_5", "plain_4_4_g64", "plain_8_8_g64"} <= group["ways"].keys()


def test_the_other_studies_are_kept_by_name(numbers):
    assert numbers["ladder"]["rungs"]["w4a8_shift"]["latent_snr"] == {"typical": 21.0, "worst": 1.0}
    assert numbers["pictures"]["variants"]["w4a8"]["title"] == "W4A8, learned"
    assert numbers["pictures"]["variants"]["multitier"]["title"] == "W4A4-8, learned (multitier)"
    assert numbers["pictures"]["variants"]["fp_other_seeds"]["paired"]["ssim"]["median"] == 0.99
    assert numbers["ablation"]["measured"]["pictures"] == 2048
    assert numbers["multitier"]["shares"] == pytest.approx({"a4": 0.333, "a6": 0.333, "a8": 0.333})
    assert numbers["bench"]["measured"]["kernels"] == ["Haswell / PyTorch AVX2", "Haswell"]
    assert numbers["bench"]["rows"] == {
        "ours_1_worker_torch_twin_1_worker": 0.84159,
        "what_being_resumable_costs": pytest.approx(0.019),
    }


def test_inputs_are_grouped_by_stream_and_role(numbers):
    groups = numbers["inputs"]["groups"]
    assert groups["text_fc1"]["sd3-medium"]["spread"] == {"median": 6.0, "largest": 9.0}
    assert groups["text_fc1"]["sd3-medium"]["offset"] == {"median": 0.5, "largest": 0.5}
    assert groups["final_layer_linear"] == {"sd3-medium": groups["final_layer_linear"]["sd3-medium"], "embedded": {}}
    assert numbers["inputs"]["measured"]["inputs"] == {"sd3-medium": 4, "embedded": 1}
    assert numbers["outliers"] == {
        "measured": {"configuration": "config/config.yaml", "machine": "two cores", "pictures": 64},
        "models": {"all": {"w4": 0.5}},
    }


def test_the_main_job_is_its_own_stages_alone(numbers):
    assert numbers["main_job"]["cpu_minutes"] == pytest.approx(3)
    assert numbers["main_job"]["peak_mb"] == pytest.approx(419.43)
    assert numbers["main_job"]["peaks_mb"].keys() == {"collect_shard", "distil"}


def test_the_tables_are_made_from_the_numbers(numbers):
    for name in ("readme", "frontier", "ladder", "pictures", "ablation"):
        lines = TABLES[name](numbers).split("\n")
        assert len({line.count(" |") for line in lines if not line.startswith("|--")}) == 1, name
    readme = [line.split(" | ")[0] for line in TABLES["readme"](numbers).split("\n")[2:]]
    assert readme == [
        "| `nn.quantize`, 4 bits, groups of 64",
        "| **this project, weights only**",
        "| **this project, 8-bit inputs (simulated)**",
        "| `nn.quantize`, 6 bits, groups of 64",
        "| `nn.quantize`, 8 bits, groups of 64",
    ]
    assert "| &nbsp;&nbsp;+ shift | 21.00 | 1.00 | 30.00 | 25.00 |" in TABLES["ladder"](numbers)
    assert "| this project, `config/config.yaml` | 0.047" in TABLES["ablation"](numbers)
    assert "again" not in TABLES["pictures"](numbers)


def test_calibration_sets_are_in_the_order_of_their_prompts(numbers):
    first, second = TABLES["calibration"](numbers).split("\n")[2:]
    assert first == "| 64 | mixed | 1,024 | 20.0 | 20.0 | 20.0 [19.0, 21.0] | 20.0 [19.0, 21.0] | 1.5 | 2 |"
    assert second.startswith("| 1,024 |")


def test_the_growth_of_costs_is_relative_to_the_number_of_prompts(numbers):
    head, _, *rows = TABLES["scale"](numbers).split("\n")
    assert head == "| prompts | 1,000 | 10,000 | 10,000, 20 per shard | growth |"
    assert rows == ["| dry run: s | 2 | 10 | 0.5 | 0.50 |", "| store: MB | 100 | 1,000 |  | 1.00 |"]


def test_the_nearest_way_is_above_ours_or_else_the_best_below():
    def make(bits, median, **more):
        return {"name": "w_a8" if more else "plain", "bits_per_weight": bits, "median": {"value": median}} | more

    low, high, five, six, seven = make(4.5, 10), make(8.5, 40), make(5.5, 16), make(6.5, 22), make(7.5, 28)
    ways = [high, seven, six, five, low]
    assert find_nearest(ways, [make(4.5, 20, asked=4.5)], low, high) == [six]
    assert find_nearest(ways, [make(4.5, 30, asked=4.5)], low, high) == [seven]
    assert find_nearest([low, high], [make(4.5, 30, asked=4.5)], low, high) == []


def test_groups_without_a_file_are_kept(results, numbers, tmp_path):
    out, other = tmp_path / "numbers.json", tmp_path / "other"
    empty = {"format": "weights-ladder", "version": 1, "pictures": 2, "rungs": []}
    write_json(other / "weights_ladder.json", empty)
    before = collect(results, out)
    after = collect(other, out, "--configuration", "config/paper.yaml")
    assert after["ladder"] == {"measured": {"configuration": "config/paper.yaml", "pictures": 2}, "rungs": {}}
    assert {name: group for name, group in after.items() if name != "ladder"} == {
        name: group for name, group in before.items() if name != "ladder"
    }


def test_only_some_groups_can_be_replaced(results, tmp_path):
    assert collect(results, tmp_path / "numbers.json", "--only", "bench", "ladder").keys() == {"bench", "ladder"}


def test_the_benchmark_file_can_be_elsewhere(results, tmp_path):
    write_json(tmp_path / "bench.json", as_records([Row("store / raw fp16 bytes", 0.86, "x")]))
    found = collect(results, tmp_path / "numbers.json", "--bench", str(tmp_path / "bench.json"))
    assert found["bench"]["rows"] == {"store_raw_fp16_bytes": 0.86}


def test_a_size_that_was_not_measured_is_named(results, tmp_path):
    with pytest.raises(UserError, match=r"frontier.json has no size of 5.0 bits per weight"):
        collect(results, tmp_path / "numbers.json", "--size", "5")


def test_results_without_any_study_are_rejected(tmp_path):
    with pytest.raises(UserError, match="has no result to collect"):
        collect(tmp_path, tmp_path / "numbers.json")


def test_documents_are_filled_in_place(results, tmp_path):
    collect(results, tmp_path / "numbers.json")
    document = tmp_path / "page.md"
    document.write_text("As good as <!-- n: frontier.ways.w_a8_4_5.equal_bits -->0.00 bits.\n")
    arguments = ["--numbers", str(tmp_path / "numbers.json"), str(document)]
    fill_numbers.main(fill_numbers.build_arguments().parse_args(arguments))
    assert document.read_text() == "As good as <!-- n: frontier.ways.w_a8_4_5.equal_bits -->6.33 bits.\n"
    document.write_text("Or <!-- n: x -->1.\n")
    with pytest.raises(UserError, match=r"page.md: no measured number is named x"):
        fill_numbers.main(fill_numbers.build_arguments().parse_args(arguments))
