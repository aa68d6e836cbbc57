"""One job downloads missing model files and checks all of them; every fault has a cure."""

import hashlib
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.numpy import load, save_file

from taqmlx.models import hub_download
from taqmlx.models.sd3 import MODELS
from taqmlx.models.weight_files import CHECKPOINT, CHECKPOINT_REPO, TEXT_NAMES, TEXT_REPO, WeightFile
from taqmlx.planning.stages import FetchWeights
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from tools.miniature import cache, forms, server
from workflow_scripts.prepare import fetch_weights

CLIP = WeightFile(TEXT_REPO, TEXT_NAMES["clip_l"])


def create(weights_from=CHECKPOINT_REPO, use_t5=True, size=(64, 64)):
    return MODELS["sd3-medium"](weights_from, use_t5, *size)


@pytest.fixture(scope="module")
def files():
    return cache.make_files()


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    """A Hub cache with the miniature, offline."""
    cache.install(tmp_path / "hub", files, monkeypatch)
    return tmp_path / "hub"


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """`fetch(weights_from)`: run the job; the digests it writes."""

    def call(weights_from=CHECKPOINT_REPO):
        monkeypatch.setenv("WORKFLOW_WEIGHTS_FROM", str(weights_from))
        write_json(tmp_path / "params.json", FetchWeights(model="sd3-medium", use_t5=True).encode())
        fetch_weights.main(Namespace(params=tmp_path / "params.json", out=tmp_path / "weights.json"))
        return read_json(tmp_path / "weights.json")["sha256"]

    return call


def refuse(fetch, words, *arguments):
    """The error of a run: its two lines, the second a command or what to do."""
    with pytest.raises(UserError, match=words) as caught:
        fetch(*arguments)
    lines = str(caught.value).splitlines()
    assert len(lines) <= 2
    return lines


def find_in_cache(hub, file):
    return hub / f"models--{file.repo.replace('/', '--')}" / "snapshots" / cache.COMMIT / file.name


def test_a_complete_cache_is_checked_offline(hub, fetch):
    assert fetch() == create().file_digests()


def test_only_what_is_missing_is_downloaded(hub, files, fetch, monkeypatch):
    whole = fetch()
    for file in (CHECKPOINT, CLIP):
        find_in_cache(hub, file).resolve().unlink()
        find_in_cache(hub, file).unlink()
    with server.serve(files, monkeypatch) as asked:
        assert fetch() == whole
    assert sorted(asked) == sorted(f"/{file.repo}/resolve/main/{file.name}" for file in (CHECKPOINT, CLIP))


def test_an_empty_cache_without_a_network_is_named(fetch, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.with_name("empty")))
    lines = refuse(fetch, "unreachable")
    assert lines[1].strip() == f"hf download {CHECKPOINT_REPO} {CHECKPOINT.name}"


@pytest.mark.parametrize(
    ("refusal", "words"), [(server.GATED, "is gated; accept its licence"), (server.UNKNOWN, "log in")]
)
def test_a_gated_repository_is_named(fetch, hub, monkeypatch, refusal, words):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.with_name("empty")))
    with server.serve({}, monkeypatch, refusal):
        assert refuse(fetch, words)[1].strip() == "hf auth login"


def test_a_full_disk_is_named(fetch, hub, files, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.with_name("empty")))
    monkeypatch.setattr(hub_download, "SPARE_BYTES", 10**18)
    with server.serve(files, monkeypatch) as asked:
        refuse(fetch, "export HF_HUB_CACHE=FOLDER")
    assert asked == []


@pytest.mark.parametrize("file", [CHECKPOINT, CLIP])
def test_a_truncated_file_is_named(fetch, hub, files, file):
    place = find_in_cache(hub, file)
    place.resolve().write_bytes(files[file][:-1])
    refuse(fetch, f"has {len(files[file]) - 1} of {len(files[file])} bytes; delete it")
    place.resolve().write_bytes(files[file][:100])
    refuse(fetch, "is not a complete safetensors file")
    model = create(use_t5=False)
    with pytest.raises(UserError, match="is not a complete safetensors file"):
        model.load_transformer() if file == CHECKPOINT else model.encode_prompts(["a"])


def test_a_flipped_bit_is_named(fetch, hub, files):
    content = bytearray(files[CHECKPOINT])
    content[-9] ^= 1
    find_in_cache(hub, CHECKPOINT).resolve().write_bytes(content)
    refuse(fetch, r"is damaged; delete it and get it again:\n  rm .*/blobs/\w+ .*/snapshots/.* && hf download")


def test_a_file_of_another_model_is_named(fetch, hub, files, tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(files[CLIP])
    lines = refuse(fetch, "is a CLIP text encoder; use the file of the model", tmp_path / "mine.safetensors")
    assert lines[1].strip() == f"hf download {CHECKPOINT_REPO} {CHECKPOINT.name}  # and weights_from: {CHECKPOINT_REPO}"


def test_a_checkpoint_with_a_missing_tensor_is_named(hub, files, tmp_path):
    tensors = load(files[CHECKPOINT])
    tensors.pop("model.diffusion_model.joint_blocks.3.x_block.attn.qkv.weight")
    save_file(tensors, tmp_path / "mine.safetensors")
    model = create(str(tmp_path / "mine.safetensors"), False)
    with pytest.raises(
        UserError, match=r"is not the sd3_medium.safetensors of .*: it lacks 3 of DiffusionKit's tensors \(.*k_proj"
    ) as caught:
        model.load_transformer()
    assert len(str(caught.value).splitlines()) == 2


def test_a_folder_with_a_missing_file_is_named(fetch, files, tmp_path):
    cache.write_folder(tmp_path / "folder", {file: files[file] for file in files if file != CLIP})
    lines = refuse(fetch, "lacks clip_l/model.fp16.safetensors", tmp_path / "folder")
    assert lines[1].strip() == f"hf download {TEXT_REPO} {CLIP.name} --local-dir {tmp_path / 'folder'}"


def test_a_path_that_does_not_exist_is_named(fetch):
    refuse(fetch, "is not a local folder or file", "/nowhere")


def test_a_prompt_outside_the_vocabulary_of_clip_is_named(hub):
    with pytest.raises(UserError, match="a 猫"):
        create(use_t5=False).encode_prompts(["a 猫"])


@pytest.mark.parametrize("size", [(24, 32), (32, 0), (1552, 32)])
def test_an_impossible_picture_size_is_named(size):
    with pytest.raises(UserError, match="multiples of 16"):
        create(size=size)


def follow(message, **environment):
    """Run the commands of a rejection's second line as they stand."""
    commands = message.splitlines()[1].split(" && ")
    paths = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    quiet = {
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_ETAG_TIMEOUT": "120",
    }
    for command in commands:
        done = subprocess.run(
            shlex.split(command, comments=True),
            env=os.environ | paths | quiet | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_the_cure_of_a_damaged_file_in_the_cache_works(tmp_path, files, fetch, monkeypatch, damage):
    """Whoever deletes the link alone gets the same damaged file linked again."""
    hub = tmp_path / "a hub"
    cache.install(hub, files, monkeypatch)
    whole, link = fetch(), find_in_cache(hub, CLIP)
    blob, content = link.resolve(), files[CLIP]
    blob.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError) as caught:
        fetch()
    assert shlex.quote(str(blob)) in str(caught.value)
    with server.serve(files, monkeypatch) as asked:
        link.unlink()  # deleting the link is no cure
        hf_hub_download(CLIP.repo, CLIP.name)
        assert blob.read_bytes() != content
        assert asked == []
        with pytest.raises(UserError) as caught:
            fetch()
        follow(str(caught.value), HF_HUB_CACHE=str(hub), HF_ENDPOINT=constants.ENDPOINT)
        assert asked == [f"/{CLIP.repo}/resolve/main/{CLIP.name}"]
    assert fetch() == whole


def test_a_damaged_small_file_in_the_cache_is_found(hub, files, fetch):
    """Those have the name that git gives them."""
    file = WeightFile(TEXT_REPO, TEXT_NAMES["tokenizer_l_vocab"])
    link, content = find_in_cache(hub, file), files[file]
    blob = link.resolve().with_name(hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())
    blob.write_bytes(content)
    link.unlink()
    link.symlink_to(blob)
    fetch()
    blob.write_bytes(content[:-1] + b"\n")
    assert shlex.quote(str(blob)) in refuse(fetch, "is damaged; delete it and get it again")[1]


def test_the_cure_of_a_damaged_file_in_a_folder_of_links_works(hub, tmp_path, files, fetch, monkeypatch):
    store, folder = tmp_path / "a store", tmp_path / "a folder"
    cache.write_folder(store, files)
    for path in store.rglob("*.*"):
        place = folder / path.relative_to(store)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path)
    whole = fetch(folder)
    (store / CLIP.local_name).write_bytes(files[CLIP][:-1])
    message = "\n".join(refuse(lambda: fetch(folder), "delete it and get it again"))
    with server.serve(files, monkeypatch):
        follow(message, HF_HUB_CACHE=str(tmp_path / "unused"), HF_ENDPOINT=constants.ENDPOINT)
    assert not (store / CLIP.local_name).exists()
    assert fetch(folder) == whole


def test_the_cure_of_a_damaged_local_file_works(hub, tmp_path, files, fetch):
    target, link = tmp_path / "my target", tmp_path / "mine.safetensors"
    target.write_bytes(files[CHECKPOINT][:-1])
    link.symlink_to(target)
    line, command = refuse(lambda: fetch(link), "bytes; delete it and put a whole copy at")
    follow(f"{line}\n{command}")
    assert not target.exists()
    assert not link.is_symlink()
    Path(line.partition("whole copy at ")[2].rstrip(":")).write_bytes(files[CHECKPOINT])
    assert fetch(link) == fetch()


def test_the_cure_of_coded_weights_in_a_folder_works(hub, tmp_path, files, fetch, monkeypatch):
    """The command downloads to where the file is looked for, over what is there."""
    folder = tmp_path / "folder"
    cache.write_folder(folder, files)
    whole = fetch(folder)
    (folder / CLIP.local_name).write_bytes(forms.convert(files[CLIP], torch.float8_e4m3fn))
    message = "\n".join(refuse(lambda: fetch(folder), "as F8_E4M3"))
    with server.serve(files, monkeypatch):
        follow(message, HF_HUB_CACHE=str(tmp_path / "unused"), HF_ENDPOINT=constants.ENDPOINT)
    assert fetch(folder) == whole


def test_ignored_text_encoders_in_a_file_are_reported(hub, tmp_path, files, fetch, caplog):
    caplog.set_level("INFO")
    (tmp_path / "all.safetensors").write_bytes(forms.join(files[CHECKPOINT], clip_l=files[CLIP]))
    fetch(tmp_path / "all.safetensors")
    assert f"all.safetensors: its clip_l are ignored; those of {TEXT_REPO} are" in caplog.text


def test_shards_are_digested_one_by_one(hub, tmp_path, files, fetch):
    shards = forms.write_shards(files[CHECKPOINT], tmp_path / "mine.safetensors")
    digests = fetch(tmp_path / "mine.safetensors.index.json")
    assert {shard.name for shard in shards} | {f"{CHECKPOINT.name}.index.json"} < set(digests)
    assert digests == create(str(tmp_path / "mine.safetensors.index.json")).file_digests()
