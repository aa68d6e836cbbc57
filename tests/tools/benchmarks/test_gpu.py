"""The measurement of a GPU runs whole on a CPU with small sizes, resumes, and is rejected elsewhere."""

import json
import subprocess
from pathlib import Path

import mlx.core as mx
import pytest

from taqmlx.budgeting import work
from taqmlx.planning import configuration
from taqmlx.planning.sizes import read_sizes
from taqmlx.report.gpu_table import MISSING, ROWS, show_gpu
from taqmlx.store.files import read_json, read_plain_json, write_json
from tools.benchmarks.gpu import learning, steps
from tools.benchmarks.gpu.publish import derive_costs

SMALL = ("--device", "cpu", "--size", "small")
NUMBERS, COSTS = Path("docs/numbers.json"), Path("taqmlx/budgeting/costs.json")


@pytest.fixture(scope="module")
def measure(python):
    """measure(options): run the command to its end."""

    def run(*options):
        command = [python, "-m", "tools.benchmarks.gpu", *map(str, options)]
        return subprocess.run(command, capture_output=True, text=True)

    return run


@pytest.mark.skipif(mx.default_device().type == mx.gpu, reason="there is a GPU")
def test_without_a_gpu_it_stops_in_one_line(measure, tmp_path):
    done = measure("--folder", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: MLX has no GPU here; install its CUDA package (make venv CUDA=13)")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_full_size_is_rejected_on_a_cpu(measure, tmp_path):
    done = measure("--folder", tmp_path, "--device", "cpu")
    assert done.stderr == "error: --size sd3-medium: takes days on a CPU; add --size small\n"


@pytest.fixture(scope="module")
def record(measure, tmp_path_factory):
    """The folder of a whole run, which leaves the files of the repository alone."""
    folder = tmp_path_factory.mktemp("gpu")
    before = [path.read_bytes() for path in (NUMBERS, COSTS)]
    done = measure("--folder", folder, *SMALL)
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() for path in (NUMBERS, COSTS)] == before
    return folder


@pytest.mark.slow
@pytest.mark.whole
class TestSmallRun:
    def test_every_part_is_measured(self, record):
        found = read_json(record / "record.json")
        assert set(found) == {"about", "steps", "learning", "tests", "main_job", "bench"}
        assert found["tests"]["tests"] > 10
        assert found["tests"]["failures"] == found["tests"]["errors"] == 0
        assert found["main_job"]["elapsed_min"] > found["main_job"]["optimise_block_min"] > 0
        assert len(found["bench"]) >= 3
        assert all(value > 0 for key, value in found["steps"].items() if key.endswith(("_s", "_mb")))

    def test_the_numbers_fill_the_table_and_other_groups_stay(self, record):
        numbers, before = read_plain_json(record / "numbers.json"), read_plain_json(NUMBERS)
        assert {key: value for key, value in numbers.items() if key != "gpu"} == {
            key: value for key, value in before.items() if key != "gpu"
        }
        table = show_gpu(numbers)
        assert read_json(record / "record.json")["about"]["machine"] in table
        assert len(table.splitlines()) == 2 + len(ROWS)

    def test_the_costs_of_a_gpu_are_beside_those_of_a_cpu(self, record):
        costs, before = json.loads((record / "costs.json").read_text()), json.loads(COSTS.read_text())
        gpu = costs["sd3-medium"].pop("gpu")
        before["sd3-medium"].pop("gpu", None)
        assert costs == before
        assert set(gpu) == {"machine", "basis", "block_pair_seconds", "learn_seconds"}

    def test_a_part_that_is_there_is_not_measured_again(self, measure, record):
        found = read_json(record / "record.json")
        marked = found | {"bench": {"marked": 1.0}}
        write_json(record / "record.json", {key: value for key, value in marked.items() if key != "steps"})
        done = measure("--folder", record, *SMALL)
        assert done.returncode == 0, done.stderr
        again = read_json(record / "record.json")
        assert again["bench"] == {"marked": 1.0}
        assert again["main_job"] == found["main_job"]
        assert again["steps"]["w4a16_error"] == found["steps"]["w4a16_error"]
        write_json(record / "record.json", again | {"about": found["about"] | {"machine": "another"}})
        assert "choose another --folder" in measure("--folder", record, *SMALL).stderr


def test_packed_steps_differ_from_exact_ones_by_four_bits():
    assert 1e-4 < steps.measure("small")["w4a16_error"] < 0.3


def test_learning_lowers_the_loss_in_both_precisions():
    found = learning.measure("small")
    assert found["fp32_last_loss"] < found["fp32_first_loss"]
    assert found["bf16_last_loss"] < found["bf16_first_loss"]


def test_without_a_gpu_the_table_says_so():
    assert show_gpu({}) == MISSING


def test_a_budget_has_the_speed_that_was_measured(monkeypatch):
    seconds = {"fp16_short_s": 0.24, "fp16_long_s": 0.48, "short_tokens": 154, "long_tokens": 589, "image_tokens": 256}
    costs = derive_costs({"steps": seconds, "learning": {"fp32_s": 0.04}}, "a GPU")
    assert costs["block_pair_seconds"] == [[410, 0.01], [845, 0.02]]
    monkeypatch.setitem(work.COSTS, "sd3-medium", work.COSTS["sd3-medium"] | {"gpu": costs})
    config = configuration.complete({"model": "sd3-medium", "use_t5": True}, configuration.load_schema())
    sizes = read_sizes(config)._replace(image_tokens=256)
    found = work.estimate_rates(config, sizes, on_gpu=True)
    assert found.step == pytest.approx(24 * 0.02)
    assert found.iteration == pytest.approx(0.02 * 2 * config["adaround_batch"])
    assert found.source.endswith("on a GPU")
    assert work.estimate_rates(config, sizes).step > 10 * found.step
