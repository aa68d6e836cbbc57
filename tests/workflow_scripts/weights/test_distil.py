"""Distillation as the rule runs it: equal bytes after interruptions, never worse than its start; rejected inputs."""

import logging
import re
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from taqmlx.models.catalogue import find_model
from taqmlx.numerics.loss_curve import LOSSES_REPORTED, shorten_losses
from taqmlx.planning import block_plan, configuration, plan
from taqmlx.planning.layers import list_linears
from taqmlx.store.block_file import read_block, write_block
from taqmlx.store.block_report import read_report
from taqmlx.store.calibration import open_calibration
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json
from taqmlx.store.seal import identify_work
from tests.support.interruption import interrupt_after_saves
from tests.workflow_scripts.blocks.test_measure_costs import (
    GUIDANCE,
    damage,
    write_guided_calibration,
    write_parameters,
)
from tools.small_results import study as small
from tools.small_results.shards import hash_tree
from workflow_scripts.weights import distil

# 18 points of three prompts, one of them held out; three bits, so that there is something to learn.
SETTINGS = {
    "weights": [{"layers": "*", "bits": 3, "range": "absmax"}],
    "bits_per_weight": None,
    "held_out": 0.34,
    "distil_iterations": 5,
    "distil_batch": 6,
    "distil_rate": 0.0005,
    "distil_code_rate": 0.017,  # five iterations take the undecided codes just over to the next one
    "distil_checkpoint_every": 2,
}
UNITS = plan.list_units("embedded")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A folder with a calibration set and the quantized blocks; not to be changed."""
    folder = tmp_path_factory.mktemp("sources")
    write_guided_calibration(folder / "calibration.zarr")
    rules = read_json(write_parameters(folder / "blocks.json", "optimise_block", SETTINGS))
    small.write_rounded_blocks(folder / "adaround", rules)
    return folder


def list_arguments(sources: Path, folder: Path, **changes) -> Namespace:
    """The arguments of the entry, for results in `folder`."""
    arguments = {
        "params": folder / "params.json",
        "calibration": sources / "calibration.zarr",
        "blocks": [sources / "adaround" / f"{unit}.safetensors" for unit in UNITS],
        "scratch": folder / "scratch" / "distil",
        "out": folder / "made" / "distilled.safetensors",
        "folds": None,
    }
    return Namespace(**arguments | changes)


def run_distil(sources: Path, folder: Path, arguments: Namespace | None = None, **changes) -> Path:
    """Run the entry; the file it makes."""
    write_parameters(folder / "params.json", "distil", SETTINGS | changes)
    arguments = arguments or list_arguments(sources, folder)
    arguments.out.parent.mkdir(exist_ok=True)
    distil.main(arguments)
    return arguments.out


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory) -> Path:
    """What is made; not to be changed."""
    return run_distil(sources, tmp_path_factory.mktemp("finished"))


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A folder with what is made, to do with as one likes."""
    shutil.copytree(finished.parent, tmp_path / "made")
    return tmp_path


def read_made(path: Path) -> dict:
    return read_report(path.with_suffix(".report.json"))


class TestResult:
    def test_all_layers_and_biases_are_in_one_file(self, finished, sources):
        file = read_block(finished)
        names = {layer.name for layer in list_linears(*plan.MODEL_BLOCKS["embedded"])}
        assert set(file.weights) == set(file.biases) | {n for n in names if n not in file.biases} == names
        assert len(file.biases) > 60
        assert file.inputs == {}  # dynamic: no step sizes of their own
        assert {(layer.grid.bits, layer.grid.group_size) for layer in file.weights.values()} == {(3, 64)}

    def test_the_seal_has_the_rules_and_the_inputs(self, finished, sources):
        seal = read_block(finished).seal
        wanted = block_plan.resolve_layers(
            plan.select_parameters("distil", configuration.complete(SETTINGS, configuration.load_schema()), [])
        )
        assert seal["parameters"] == wanted | {"block": "distilled"}
        blocks = {unit: identify_work(read_block(sources / "adaround" / f"{unit}.safetensors").seal) for unit in UNITS}
        calibration = open_calibration(sources / "calibration.zarr").seal["fingerprint"]
        assert seal["inputs"] == {
            "model": find_model("embedded").file_digests(),
            "calibration": calibration,
            "blocks": blocks,
        }

    def test_the_result_is_closer_to_full_precision_than_the_blocks_on_held_out_prompts(self, finished):
        report = read_made(finished)
        assert report["chosen"] == "distilled"
        assert report["errors"]["distilled"] < report["errors"]["blocks"]
        assert sum(report["points"].values()) == 18
        assert report["points"]["held_out"] > 0

    def test_the_report_says_what_moved_and_how_the_loss_fell(self, finished):
        report = read_made(finished)
        assert len(report["loss"]["values"]) == 5
        assert report["loss"]["values"][-1] < report["loss"]["values"][0]
        assert set(report["moved_codes"]) == set(read_block(finished).weights)
        assert 0 < max(report["moved_codes"].values()) < 0.5

    def test_a_message_has_both_errors_and_no_scratch_remains(self, sources, tmp_path, caplog):
        """Scales alone: the codes are those of the blocks."""
        with caplog.at_level(logging.INFO, "taqmlx"):
            path = run_distil(sources, tmp_path, distil="scales")
        said = r"guided velocity held out blocks [\d.]+ dB, distilled [\d.]+ dB; kept: distilled"
        assert re.search(said, caplog.text)
        assert not list_arguments(sources, tmp_path).scratch.exists()
        found, moved = read_block(path).weights, set()
        assert set(read_made(path)["moved_codes"].values()) == {0.0}
        for unit in UNITS:
            for name, layer in read_block(sources / "adaround" / f"{unit}.safetensors").weights.items():
                np.testing.assert_array_equal(found[name].codes, layer.codes)
                moved |= {name} if (found[name].grid.scales != layer.grid.scales).any() else set()
        assert set(found) - moved == {"mm_04.text.attn.q_proj"}  # the last block's text reaches no output

    def test_a_result_worse_than_the_blocks_is_not_written(self, sources, tmp_path):
        """A rate far too high: the blocks as they are, and the report says so."""
        path = run_distil(sources, tmp_path, distil_rate=0.5, distil_code_rate=2.0)
        report, found = read_made(path), read_block(path)
        assert report["chosen"] == "blocks"
        assert report["errors"]["distilled"] > report["errors"]["blocks"]
        for unit in UNITS:
            for name, layer in read_block(sources / "adaround" / f"{unit}.safetensors").weights.items():
                np.testing.assert_array_equal(found.weights[name].codes, layer.codes)
                for part, expected in zip(found.weights[name].grid, layer.grid, strict=True):
                    np.testing.assert_array_equal(part, expected)

    def test_guidance_is_that_of_the_calibration_set(self, sources, tmp_path, monkeypatch):
        found, learn = [], distil.learn

        def note(task, settings, *others):
            found.append(settings.guidance)
            return learn(task, settings, *others)

        monkeypatch.setattr(distil, "learn", note)
        run_distil(sources, tmp_path)
        assert found == [GUIDANCE]


def interrupt(sources: Path, folder: Path, monkeypatch, saves: int, **changes) -> None:
    """Let the entry be interrupted right after it saved its learning for the `saves`th time."""
    interrupt_after_saves(monkeypatch, saves, lambda: run_distil(sources, folder, **changes))


@pytest.mark.slow
class TestInterruptions:
    """Equal bytes, or a line that says why it starts over."""

    @pytest.mark.parametrize("saves", [1, 2])
    def test_an_interrupted_distillation_resumes_and_ends_with_equal_bytes(
        self, sources, finished, tmp_path, monkeypatch, caplog, saves
    ):
        interrupt(sources, tmp_path, monkeypatch, saves)
        with caplog.at_level(logging.INFO, "taqmlx"):
            path = run_distil(sources, tmp_path)
        assert f"resuming distillation after {2 * saves} iterations" in caplog.text
        assert hash_tree(path.parent) == hash_tree(finished.parent)

    def test_a_checkpoint_with_other_settings_is_named_and_ignored(
        self, sources, finished, tmp_path, monkeypatch, caplog
    ):
        interrupt(sources, tmp_path, monkeypatch, 1, distil_rate=0.1)
        with caplog.at_level(logging.INFO, "taqmlx"):
            path = run_distil(sources, tmp_path)
        assert "learning.safetensors was made with other parameters or inputs; it is ignored" in caplog.text
        assert "resuming" not in caplog.text
        assert hash_tree(path.parent) == hash_tree(finished.parent)

    def test_diverged_learning_keeps_its_checkpoint_and_writes_nothing(self, sources, tmp_path):
        with pytest.raises(UserError, match=r"distillation: iteration \d gives a value that is not finite, first in"):
            run_distil(sources, tmp_path, distil_rate=1e4, distil_checkpoint_every=1)
        assert list_arguments(sources, tmp_path).scratch.exists()
        assert not list_arguments(sources, tmp_path).out.exists()


class TestFinished:
    def test_finished_work_is_kept(self, sources, copy, caplog):
        before = hash_tree(copy / "made")
        with caplog.at_level(logging.INFO, "taqmlx"):
            run_distil(sources, copy)
        assert "distilled.safetensors is already finished" in caplog.text
        assert "iterations" not in caplog.text
        assert hash_tree(copy / "made") == before

    def test_a_result_with_another_origin_is_named_and_replaced(self, sources, copy, caplog):
        """The run ends at the calibration set, which is damaged."""
        calibration = write_guided_calibration(copy / "calibration.zarr")
        damage(calibration)
        arguments = list_arguments(sources, copy, calibration=calibration)
        with (
            caplog.at_level(logging.INFO, "taqmlx"),
            pytest.raises(UserError, match=r"calibration\.zarr/xs does not match its seal"),
        ):
            run_distil(sources, copy, arguments, distil_rate=0.1)
        words = r"other parameters \(distil_rate: 0.0005 there, 0.1 in"
        assert re.search(rf"distilled\.safetensors was made with {words}.*; it is replaced", caplog.text)


class TestRefusals:
    """The file is named with what to do, and nothing is written."""

    def refuse(self, words, sources, folder, arguments=None, **changes):
        with pytest.raises(UserError, match=words):
            run_distil(sources, folder, arguments, **changes)
        assert not list((folder / "made").iterdir())

    def test_a_missing_block_is_named(self, sources, tmp_path):
        arguments = list_arguments(sources, tmp_path)
        arguments.blocks[2] = tmp_path / "mm_02.safetensors"
        self.refuse(r"mm_02\.(safetensors|json) is missing; run the rule that makes it", sources, tmp_path, arguments)

    @pytest.mark.parametrize("kept", [UNITS[:-1], UNITS[1:], UNITS[::-1]], ids=["no shared", "no mm_00", "reversed"])
    def test_incomplete_or_unordered_blocks_are_rejected(self, sources, tmp_path, kept):
        blocks = [sources / "adaround" / f"{unit}.safetensors" for unit in kept]
        words = r"--blocks: the files of \['mm_00', .*'shared'\] are needed in this order, and \[.*\] are named"
        self.refuse(words, sources, tmp_path, list_arguments(sources, tmp_path, blocks=blocks))

    def test_blocks_with_other_rules_are_rejected(self, sources, tmp_path):
        words = (
            r"mm_00\.safetensors was made with other rules: mm_00\.image\.adaLN_modulation: weight\.bits: 3 there, 5 in"
            r" the configuration; run optimise_block again"
        )
        self.refuse(words, sources, tmp_path, weights=[{"layers": "*", "bits": 5, "range": "absmax"}])

    def test_shared_layers_with_other_rules_are_rejected(self, sources, tmp_path):
        rules = [*SETTINGS["weights"], {"layers": "context_embedder", "bits": 8, "range": "absmax"}]
        words = r"shared\.safetensors was made with other rules: context_embedder: .*; run round_shared again"
        self.refuse(words, sources, tmp_path, weights=rules)

    def test_a_damaged_block_is_named(self, sources, tmp_path):
        shutil.copytree(sources / "adaround", tmp_path / "adaround")
        path = tmp_path / "adaround" / "mm_03.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        arguments = list_arguments(tmp_path, tmp_path, calibration=sources / "calibration.zarr")
        words = r"mm_03\.safetensors does not match .*mm_03\.json; delete both and run optimise_block again"
        self.refuse(words, sources, tmp_path, arguments)

    def test_blocks_of_another_model_are_rejected(self, sources, tmp_path):
        file = read_block(sources / "adaround" / "mm_00.safetensors")
        path, seal = tmp_path / "mm_00.safetensors", file.seal
        write_block(
            path, file.weights, {}, file.sigmas, seal["parameters"], seal["inputs"] | {"model": {"x": "0" * 64}}
        )
        arguments = list_arguments(sources, tmp_path)
        arguments.blocks[0] = path
        self.refuse(r"mm_00\.safetensors was made with other inputs \(model\.", sources, tmp_path, arguments)

    def test_shared_layers_rounded_on_another_calibration_set_are_rejected(self, sources, tmp_path):
        """Its prompts may be those held out here."""
        file = read_block(sources / "adaround" / "shared.safetensors")
        path, seal = tmp_path / "shared.safetensors", file.seal
        write_block(path, file.weights, {}, file.sigmas, seal["parameters"], seal["inputs"] | {"calibration": "0" * 64})
        arguments = list_arguments(sources, tmp_path)
        arguments.blocks[-1] = path
        self.refuse(r"shared\.safetensors was made with other inputs \(calibration: ", sources, tmp_path, arguments)

    def test_a_damaged_calibration_set_is_named(self, sources, tmp_path):
        calibration = write_guided_calibration(tmp_path / "calibration.zarr")
        damage(calibration)
        words = r"calibration\.zarr/xs does not match its seal; delete .* and run again"
        self.refuse(words, sources, tmp_path, list_arguments(sources, tmp_path, calibration=calibration))

    def test_parameters_of_another_stage_are_rejected(self, sources, tmp_path):
        params = write_parameters(tmp_path / "other.json", "round_shared", SETTINGS)
        words = r"other\.json belongs to the stage round_shared, not distil"
        self.refuse(words, sources, tmp_path, list_arguments(sources, tmp_path, params=params))


class TestLossCurve:
    """What a report has of the losses."""

    def test_few_losses_are_all_kept(self):
        assert shorten_losses([3.0, 2.0, 1.0]) == {"every": 1, "values": [3.0, 2.0, 1.0]}

    def test_many_losses_are_averaged_over_runs(self):
        losses = np.random.default_rng(0).random(2 * LOSSES_REPORTED + 1).tolist()
        found = shorten_losses(losses)
        assert found["every"] == 3
        assert len(found["values"]) == 134 <= LOSSES_REPORTED
        assert found["values"][0] == pytest.approx(sum(losses[:3]) / 3)
        assert found["values"][-1] == pytest.approx(sum(losses[399:]) / 2)

    def test_no_losses_give_an_empty_list(self):
        assert shorten_losses([]) == {"every": 1, "values": []}
