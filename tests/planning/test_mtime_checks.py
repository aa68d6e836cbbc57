"""Finished work is neither remade nor deleted because of its modification time alone."""

import os
import shlex
import subprocess
import time

import pytest

from taqmlx.planning.mtime_checks import COMPARED, MARK, SLACK, find_future, find_outdated_shards

NOW = 1_700_000_000


@pytest.fixture
def results(tmp_path):
    """Parameters, encodings and two shards, each a second younger than what it was made from."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "encode_prompts.json").touch()
    (tmp_path / "conditioning.safetensors").write_bytes(bytes(COMPARED + 1))
    for number, name in enumerate(("params/encode_prompts.json", "conditioning.safetensors")):
        os.utime(tmp_path / name, (NOW + number, NOW + number))
    for shard in ("000", "001"):
        mark = tmp_path / "trajectories.zarr" / shard / MARK
        mark.parent.mkdir(parents=True)
        mark.touch()
        os.utime(mark, (NOW + 2, NOW + 2))
    for folder in (path for path in tmp_path.rglob("*") if path.is_dir()):
        os.utime(folder, (NOW, NOW))
    return tmp_path


def test_shards_newer_than_the_encodings_are_accepted(results):
    assert list(find_outdated_shards(results)) == []


def test_an_empty_folder_is_accepted(tmp_path):
    assert list(find_outdated_shards(tmp_path)) == []


def test_an_older_shard_is_named_with_the_command_that_keeps_it(results):
    os.utime(results / "trajectories.zarr" / "001" / MARK, (NOW - 9, NOW - 9))
    (line,) = find_outdated_shards(results)
    assert f"is newer than {results / 'trajectories.zarr' / '001'}, which was made from it" in line
    _, _, command = line.partition("or keep them: ")
    subprocess.run(shlex.split(command), check=True)
    assert [name for name in find_outdated_shards(results) if "000" in name] == []


def test_files_that_snakemake_compares_by_content_need_no_date(results):
    (results / "conditioning.safetensors").write_bytes(bytes(COMPARED))
    assert list(find_outdated_shards(results)) == []


def test_results_dated_in_the_past_are_accepted(results):
    assert list(find_future(results, NOW + 3)) == []
    assert list(find_future(results / "missing", NOW)) == []


def test_clocks_that_differ_by_seconds_are_accepted(results):
    assert list(find_future(results, NOW + 2 - SLACK)) == []


@pytest.mark.parametrize("name", ["conditioning.safetensors", f"trajectories.zarr/001/{MARK}"])
def test_a_result_dated_in_the_future_is_named_with_the_command_that_resets_its_date(results, name):
    now, tomorrow = time.time(), time.time() + 86_400
    os.utime(results / name, (tomorrow, tomorrow))
    (line,) = find_future(results, now)
    assert line.startswith(f"{results / name.removesuffix(f'/{MARK}')} is dated ")
    _, _, command = line.partition("in the future: ")
    subprocess.run(shlex.split(command), check=True)
    assert list(find_future(results, now)) == []
    assert (results / name).stat().st_mtime == NOW


def test_a_broken_link_has_no_date(results):
    (results / "link").symlink_to("nowhere")
    assert list(find_future(results, NOW + 3)) == []
