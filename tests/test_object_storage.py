"""A store at a URL holds the same as a folder, or nothing that a reader accepts as finished."""

import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import zarr

from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard
from taqmlx.runtime.entry import report_failure
from taqmlx.store.errors import UnreachableError, UserError
from taqmlx.store.locations import open_location
from taqmlx.store.parameters import read_parameters
from taqmlx.store.seal import read_file_seal, read_group_seal
from tests.support.object_storage import SECRET, connect_anew, mirror, read_objects
from tools.faults.damage import flip, reseal
from tools.small_results.shards import (
    SHARDS,
    build_finished,
    copy_finished,
    hash_tree,
    list_arguments,
    prepare,
    run_entry,
)
from workflow_scripts.datasets import export_samples, write_manifest
from workflow_scripts.tools import copy_shards, verify_dataset

pytestmark = [pytest.mark.slow, pytest.mark.whole]


def read_folder(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def collect(folder: Path, store, shard="000", **options) -> None:
    run_entry(folder, "collect_shard", shard, out=store / shard, **options)


def start_worker(folder: Path, url: str, scratch: Path, shard="000") -> subprocess.Popen:
    options = list_arguments(folder, "collect_shard", shard) | {"out": f"{url}/{shard}", "scratch": scratch}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "workflow_scripts.trajectories.collect_shard", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def copy(folder: Path, source, target) -> None:
    params = list_arguments(folder, "collect_shard")["params"]
    copy_shards.main(Namespace(params=params, trajectories=source, to=target))


@pytest.fixture
def url(bucket) -> str:
    return f"{bucket}/run/trajectories.zarr"


# Writing


def test_a_shard_at_a_url_has_the_bytes_of_a_local_one_and_a_local_receipt(tmp_path, url):
    folder = prepare(tmp_path)
    store = open_location(url)
    collect(folder, store)
    assert read_objects(store / "000") == read_folder(build_finished() / "trajectories.zarr" / "000")
    assert read_file_seal(folder / "trajectories.zarr/000" / plan.RECEIPT) == read_group_seal(store / "000")
    assert not (folder / "scratch/000").exists()


def test_another_protocol_works(tmp_path):
    folder, store = copy_finished(tmp_path), open_location("memory://run/trajectories.zarr")
    copy(folder, folder / "trajectories.zarr", store)
    run_entry(folder, "verify_trajectories", trajectories=store)
    with pytest.raises(UserError, match=r"000/zarr.json is in the way"):
        (store / "000/zarr.json").create(b"another")


def test_zarr_opens_the_store(url):
    store = mirror(build_finished() / "trajectories.zarr", url)
    found, wanted = zarr.open_group(str(store), mode="r"), zarr.open_group(build_finished() / "trajectories.zarr")
    assert sorted(found.group_keys()) == list(SHARDS)
    assert (found["001/xs"][...] == wanted["001/xs"][...]).all()


def test_a_finished_shard_is_kept_and_its_receipt_restored(tmp_path, url, object_storage, caplog):
    folder, store = prepare(tmp_path), mirror(build_finished() / "trajectories.zarr", url)
    object_storage.on_upload = lambda count: pytest.fail("something was uploaded")
    try:
        with caplog.at_level("INFO", "taqmlx"):
            collect(folder, store)
    finally:
        object_storage.on_upload = None
    assert "is already finished" in caplog.text
    assert (folder / "trajectories.zarr/000" / plan.RECEIPT).exists()


def test_the_root_group_is_created_once(tmp_path, url):
    for _ in range(2):
        run_entry(tmp_path, "create_store", store=open_location(url))
    assert read_objects(open_location(url)) == {"zarr.json": (tmp_path / "trajectories.zarr/zarr.json").read_bytes()}


@pytest.mark.parametrize(
    ("name", "content"), [("xs/c.0.0.0.0.0", b"other bytes"), ("xs/c.9.9.0.0.0", b"an object of another layout")]
)
def test_nothing_at_a_url_is_replaced(tmp_path, url, name, content):
    folder, store = prepare(tmp_path), open_location(url)
    (store / "000" / name).create(content)
    with pytest.raises(UserError, match=f"{name} is in the way"):
        collect(folder, store)
    assert (store / "000" / name).read_bytes() == content
    assert not (store / "000/zarr.json").is_file()


def test_a_finished_shard_of_other_parameters_is_rejected(tmp_path, url):
    changed = copy_finished(tmp_path)
    reseal(changed / "trajectories.zarr/000", cfg_scale=9.0)
    store = mirror(changed / "trajectories.zarr", url)
    before = read_objects(store)
    with pytest.raises(UserError, match=r"000 was made with other parameters \(cfg_scale: 9.0 there, 1.5"):
        collect(prepare(tmp_path / "new"), store)
    assert read_objects(store) == before


# Interruptions


@pytest.mark.parametrize("moment", [1, 9, 24])
def test_a_worker_killed_while_it_uploads_leaves_nothing_to_read_and_the_next_one_finishes(
    tmp_path, url, object_storage, moment
):
    folder, store = prepare(tmp_path), open_location(url)
    worker = start_worker(folder, url, folder / "scratch/000")
    object_storage.uploads = 0
    object_storage.on_upload = lambda count: worker.kill() if count == moment else None
    try:
        assert worker.wait(600) == -9
    finally:
        object_storage.on_upload = None
    assert not (folder / "trajectories.zarr/000").exists()
    with pytest.raises(UserError, match=r"000/zarr.json is missing"):
        read_group_seal(store / "000")
    collect(folder, store)
    assert read_objects(store / "000") == read_folder(build_finished() / "trajectories.zarr" / "000")


def test_a_server_that_dies_during_an_upload_is_one_line_and_the_upload_resumes_later(tmp_path, url, object_storage):
    folder, store = prepare(tmp_path), open_location(url)
    object_storage.uploads = 0
    object_storage.on_upload = lambda count: object_storage.stop() if count == 5 else None
    try:
        with pytest.raises(UnreachableError, match=r"cannot be read or written \(Could not connect"):
            collect(folder, store)
    finally:
        object_storage.on_upload = None
        object_storage.start()
    assert not (store / "000/zarr.json").is_file()
    collect(folder, store)
    assert read_objects(store / "000") == read_folder(build_finished() / "trajectories.zarr" / "000")


def test_two_writers_of_one_shard_leave_the_bytes_of_one(tmp_path, url):
    folder = prepare(tmp_path)
    workers = [start_worker(folder, url, folder / "scratch" / name) for name in ("a", "b")]
    said = [worker.communicate(timeout=600)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert read_objects(open_location(url) / "000") == read_folder(build_finished() / "trajectories.zarr" / "000")


# What cannot be reached is said in a line, and is not taken for damage


def fail(url: str, caplog) -> str:
    """What is said when the shards at a URL are verified."""
    with connect_anew(), pytest.raises(UserError) as caught:
        run_entry(build_finished(), "verify_trajectories", trajectories=open_location(url))
    caplog.clear()
    report_failure(caught.value, None)
    assert [len(record.message.splitlines()) for record in caplog.records] == [1]
    return caplog.text


def test_wrong_credentials_are_named(url, caplog, object_storage):
    mirror(build_finished() / "trajectories.zarr", url)
    with object_storage.reject_keys():
        said = fail(url, caplog)
    assert re.search(r"000/zarr.json cannot be read or written \(.*(Forbidden|Access Key Id).*credentials", said)
    assert SECRET not in said


def test_missing_credentials_are_named(url, caplog, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "Unable to locate credentials" in fail(url, caplog)


def test_a_missing_bucket_is_named(url, caplog):
    assert "bucket does not exist" in fail(url.replace("bucket-", "no-bucket-"), caplog)


def test_a_dead_server_is_named(url, caplog, object_storage):
    object_storage.stop()
    try:
        assert "Could not connect" in fail(url, caplog)
    finally:
        object_storage.start()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense://bucket/run", "Protocol not known: nonsense"),
        ("gs://bucket/run", "Please install gcsfs"),
        ("s3://key:secret@bucket/run", "must not hold credentials"),
    ],
)
def test_an_invalid_url_is_rejected(text, words):
    with pytest.raises(UserError, match=words):
        open_location(text)


def test_credentials_are_not_written_anywhere(tmp_path, url):
    folder, store = prepare(tmp_path), open_location(url)
    run_entry(folder, "create_store", store=store)
    collect(folder, store)
    for content in (*read_folder(folder).values(), *read_objects(store).values()):
        assert SECRET.encode() not in content
        assert b"a-key" not in content
        assert b"s3://" not in content


# Readers and copies


def test_manifest_and_exports_are_those_of_the_folder(tmp_path, url):
    folder = copy_finished(tmp_path)
    params = list_arguments(folder, "collect_shard")["params"]
    places = {"folder": folder / "trajectories.zarr", "url": mirror(folder / "trajectories.zarr", url)}
    for name, place in places.items():
        options = {"params": params, "trajectories": place, "saved": None}
        write_manifest.main(Namespace(**options, out=tmp_path / name / "manifest.json"))
        export_samples.main(Namespace(**options, out=tmp_path / name / "samples"))
    assert hash_tree(tmp_path / "folder") == hash_tree(tmp_path / "url")


def test_verify_dataset_reads_a_url(tmp_path, url, capsys):
    folder = copy_finished(tmp_path)
    store = mirror(folder / "trajectories.zarr", url)
    shutil.rmtree(folder / "trajectories.zarr")
    verify_dataset.main(Namespace(results=folder, trajectories=store, replay=2, seed=0))
    assert "2 of 2 shards, 7 of 7 trajectories" in capsys.readouterr().out


def test_shards_are_copied_to_a_url_and_back(tmp_path, url, caplog):
    folder, store = copy_finished(tmp_path), open_location(url)
    with caplog.at_level("INFO", "taqmlx"):
        copy(folder, folder / "trajectories.zarr", store)
        copy(folder, store, tmp_path / "back")
        copy(folder, store, tmp_path / "back")
    assert "2 shards copied, 0 already there, 0 unfinished" in caplog.messages[-3]
    assert "0 shards copied, 2 already there, 0 unfinished" in caplog.messages[-1]
    for shard in SHARDS:
        assert hash_tree(tmp_path / "back" / shard) == hash_tree(folder / "trajectories.zarr" / shard)
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == list(SHARDS)


@pytest.mark.parametrize("direction", ["to", "from"])
def test_a_damaged_shard_is_not_copied(tmp_path, url, direction):
    folder = copy_finished(tmp_path)
    flip(folder / "trajectories.zarr/001/xs/c.0.0.0.0.0")
    source, target = folder / "trajectories.zarr", open_location(f"{url}/copy")
    if direction == "from":
        source, target = mirror(source, url), tmp_path / "copy"
    with pytest.raises(UserError, match=re.escape(f"{source / '001/xs/c.0.0.0.0.0'} is damaged")):
        copy(folder, source, target)
    assert (target / "000/zarr.json").is_file()
    assert not (target / "001/zarr.json").is_file()


def test_a_receipt_is_not_accepted_as_a_shard(tmp_path, url):
    folder = prepare(tmp_path)
    collect(folder, open_location(url))
    with pytest.raises(UserError, match=r"trajectories.zarr/000 is in the way"):
        run_entry(folder, "collect_shard")
    with pytest.raises(UserError, match=r"000/zarr.json is missing"):
        read_group_seal(folder / "trajectories.zarr/000")


def test_planning_accepts_a_receipt_for_its_shard(tmp_path, url):
    folder = prepare(tmp_path)
    collect(folder, open_location(url))
    parameters = read_parameters(CollectShard, list_arguments(folder, "collect_shard")["params"])
    assert list(plan.find_conflicts(folder, parameters)) == []
    (conflict,) = plan.find_conflicts(folder, replace(parameters, seed=4))
    assert "trajectories.zarr/000 was made with other parameters (seed: 3 there, 4" in conflict


def test_without_a_url_no_storage_package_is_loaded():
    code = (
        "import sys; from workflow_scripts.calibration import gather_calibration;"
        "from workflow_scripts.tools import copy_shards, verify_dataset;"
        "from workflow_scripts.trajectories import collect_shard;"
        "from taqmlx.store.locations import open_location; open_location('results'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert not {"fsspec", "s3fs", "botocore", "aiohttp"} & set(done.stdout.split())
