"""Every file is compared with its checksum, named with the target that remakes it, or listed as without a checksum."""

import re
import shutil

import numpy as np
import pytest

from taqmlx.checks.files import check_files, is_group
from taqmlx.checks.recorded_digests import find_own_fault
from taqmlx.checks.results import Results
from taqmlx.planning import plan
from taqmlx.store.checksum_files import SUMS
from taqmlx.store.files import CHECKSUM, read_plain_json, write_json, write_plain_json
from taqmlx.store.seal import read_group_seal
from taqmlx.store.tensors import write_sealed_tensors
from tests.support.every_file import (
    NO_CHECKSUM,
    flip_every_kind,
    flipped,
    list_kinds,
    list_without_checksum,
    read_everything,
    read_target,
)
from tools.faults.damage import amend


@pytest.mark.slow
def test_a_flipped_bit_in_any_kind_of_file_is_found_and_named(results):
    def judge(path, faults):
        targets = [target for fault in faults if (target := read_target(fault, path))]
        return "" if any(target.is_relative_to(results) for target in targets) else f"not named: {faults}"

    assert len(list_kinds(results)) > 60
    assert flip_every_kind(results, 2, judge) == {}


def test_every_result_has_a_checksum(complete):
    assert read_everything(complete)[0] == []
    assert list_without_checksum(complete) == []


@pytest.mark.parametrize(
    ("name", "sealed"),
    [
        ("block_inputs.zarr/00", True),
        ("block_inputs.zarr/adaround/01/00", True),
        ("block_inputs.zarr/frontier/4.5/adaround/01/00", True),
        ("block_inputs.zarr/adaround", False),
        ("block_inputs.zarr/adaround/01", False),
    ],
)
def test_captured_rows_are_sealed_by_shard_with_and_without_groups(name, sealed):
    assert is_group(name) == sealed


# what is damaged: the words that name it and the target; R stands for the results
CURES = {
    "params/collect_shard.json": "R/params/collect_shard.json is damaged.*; delete it and make"
    " R/params/collect_shard.json again",
    "conditioning.safetensors": "R/conditioning.safetensors does not match R/conditioning.json; delete both"
    " and make R/conditioning.json again",
    "adaround/mm_03.safetensors": "R/adaround/mm_03.safetensors does not match R/adaround/mm_03.json; delete"
    " both and make R/adaround/mm_03.json again",
    "quantized/model.safetensors": "R/quantized/model.safetensors does not match R/quantized/config.json;"
    " delete both and make R/quantized/config.json again",
    "exports/latents/0003.npy": "R/exports/latents/0003.npy does not match R/exports/latents.sha256; delete"
    " R/exports/latents and make R/exports/latents again",
    "exports/samples.sha256": "R/exports/samples.sha256 .*; delete it and R/exports/samples and make"
    " R/exports/samples again",
    "DiT_cali_data.npz": "R/DiT_cali_data.npz does not match R/DiT_cali_data.npz.sha256; delete both and make"
    " R/DiT_cali_data.npz again",
    "trajectories.zarr/zarr.json": "R/trajectories.zarr/zarr.json is damaged.*; delete it and make"
    " R/trajectories.zarr/zarr.json again",
}


@pytest.mark.parametrize("name", CURES)
def test_a_damaged_file_is_named_with_its_target(results, name):
    path = results / name
    with flipped(path, 4 * path.stat().st_size + 3):
        faults, _ = read_everything(results)
    assert any(re.fullmatch(CURES[name].replace("R/", f"{re.escape(str(results))}/"), fault) for fault in faults), (
        faults
    )


def test_a_shard_that_no_other_check_reads_is_checked(results, tmp_path):
    """As of results in a folder of these, or where the trajectories were copied to a URL."""
    inner = results / "quick" / "trajectories.zarr" / "000"
    shutil.copytree(results / "trajectories.zarr" / "000", inner)
    assert read_everything(results)[0] == []
    with flipped(inner / "xs" / "c.1.0.0.0.0", 999):
        (fault,) = read_everything(results)[0]
    assert fault == f"{inner / 'xs' / 'c.1.0.0.0.0'} is damaged; delete {inner} and run again"


def test_the_receipt_of_a_shard_at_a_url_is_checked(results, tmp_path):
    store = (results / "trajectories.zarr").rename(tmp_path / "elsewhere")
    receipt = results / "trajectories.zarr" / "000" / plan.RECEIPT
    write_json(receipt, read_group_seal(store / "000"))
    assert check_files(Results(results, store, 0, 0)).faults == []
    with flipped(receipt, 8 * receipt.stat().st_size // 2):
        (fault,) = check_files(Results(results, store, 0, 0)).faults
    assert read_target(fault, receipt) == receipt.parent


def test_results_of_an_earlier_version_pass_with_the_targets_to_remake(results, verify):
    for sums in results.rglob(f"*{SUMS}"):
        sums.unlink()
    assert verify(results).error == ""
    words = "made by an earlier version"
    assert list_without_checksum(results) == [
        f"{results}/DiT_cali_data.npz: no checksum: {words} (1); delete what is there and make calibration again",
        f"{results}/exports/*/*: no checksum: {words} (56); delete what is there and make exports again",
    ]


def test_foreign_files_and_files_without_a_checksum_are_listed(results):
    (results / "notes.txt").write_text("mine")
    (results / "plots").mkdir()
    write_plain_json(results / "mine.json", {"a": 1})
    for name in (
        "logs/score.log",
        "benchmarks/score.tsv",
        "scratch/x/checkpoint",
        "evaluation/images/fp/00.lock",
        ".x",
    ):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).touch()
    faults, notes = read_everything(results)
    assert faults == []
    nobody = "no checksum: not from this workflow, unfinished, or its checksum was removed"
    assert list_without_checksum(results) == [f"{results / name}: {nobody}" for name in ("mine.json", "notes.txt")]
    assert {note.partition(": ")[0].removeprefix(f"{results}/") for note in notes} >= NO_CHECKSUM


def test_the_command_lists_them(results, verify, caplog):
    (results / "notes.txt").write_text("mine")
    caplog.set_level("INFO")
    assert verify(results).error == ""
    assert f"{results}/notes.txt: no checksum: not from this workflow" in caplog.text


def test_a_file_whose_seal_remains_is_missing(results):
    path, seal = (results / "adaround" / f"mm_02.{end}" for end in ("safetensors", "json"))
    path.unlink()
    wanted = f"{path} is missing, but listed in {seal}; delete {seal} and make {seal} again"
    assert read_everything(results)[0] == [wanted]


def test_a_folder_that_was_deleted_is_not_missing(results):
    shutil.rmtree(results / "exports" / "samples")
    (results / "DiT_cali_data.npz").unlink()
    assert read_everything(results)[0] == []


def test_links_into_the_results_are_not_counted_as_files(results):
    (results / "activations" / "quant_config.json").symlink_to("../quant_config.json")
    (results / "samples").symlink_to("exports/samples")
    assert read_everything(results)[0] == []
    assert list_without_checksum(results) == []


def test_an_edited_configuration_without_its_checksum_is_accepted(results):
    path = results / "quant_config.json"
    content = read_plain_json(path)
    del content[CHECKSUM]
    write_plain_json(path, content)
    assert read_everything(results)[0] == []


def test_a_stale_checksum_file_is_named(results):
    amend(results / "quant_config.json", lambda value: value["arrays"].update(sha256="0" * 64))
    path = results / "quant_config.safetensors"
    assert read_everything(results)[0] == [
        f"{path} does not match {results / 'quant_config.json'}; delete both and make"
        f" {results / 'quant_config.json'} again"
    ]


@pytest.mark.parametrize("name", ["own.json", "own.safetensors"])
def test_flipped_bits_all_over_a_file_with_its_own_checksum_is_found(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".json":
        write_json(path, {"format": "own", "values": [1, 0.5, "é", None], "about": {"a": True}})
    else:
        write_sealed_tensors(path, {"a": np.arange(3.0)}, {"set": "fp", "pictures": 3})
    assert find_own_fault(path) == ""
    for bit in range(0, 8 * path.stat().st_size, 3):  # each of a byte's bits in turn
        with flipped(path, bit):
            assert find_own_fault(path), bit


@pytest.mark.parametrize(
    ("name", "is_missing"), [("/etc/passwd", False), ("../secret.txt", False), ("a\0b", True), ("", True)]
)
def test_a_name_in_a_foreign_file_cannot_lead_outside_the_folder(results, name, is_missing):
    """What is not below the results is looked for and not read."""
    (results.parent / "secret.txt").write_text("secret")
    amend(results / "quant_config.json", lambda value: value["arrays"].update(file=name))
    faults, _ = read_everything(results)
    assert len(faults) == is_missing
    assert all(" is missing, but " in fault for fault in faults)
