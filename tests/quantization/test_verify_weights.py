"""Verification describes a folder of weights and finds every fault."""

import shutil
import subprocess
from argparse import Namespace

import numpy as np
import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, read_json, write_json, write_plain_json
from taqmlx.store.seal import make_seal, read_file_seal
from taqmlx.store.tensors import read_tensors, write_tensors
from workflow_scripts.tools import verify_weights

FC1 = "multimodal_transformer_blocks.1.image_transformer_block.mlp.fc1"


@pytest.fixture
def folder(finished, tmp_path):
    """A folder of packed weights to damage."""
    return shutil.copytree(finished.quantized, tmp_path / "quantized")


@pytest.fixture
def blocks(finished, tmp_path):
    """The folder of its blocks, to damage too."""
    return shutil.copytree(finished.folder / "adaround", tmp_path / "adaround")


def verify(folder, blocks=None):
    verify_weights.main(Namespace(folder=folder, blocks=blocks))


def rewrite(folder, change):
    """Change the tensors, and let the config vouch for the changed file, so that only the contents can betray it."""
    path = folder / "model.safetensors"
    tensors = {key: array.copy() for key, array in read_tensors(path).items()}
    change(tensors)
    write_tensors(path, tensors, {"format": "mlx"})
    config = read_json(folder / "config.json")
    config["model"] |= {"sha256": hash_file(path), "bytes": path.stat().st_size}
    write_json(folder / "config.json", config)


def edit(folder, change):
    """Change the config."""
    config = read_json(folder / "config.json")
    change(config)
    write_json(folder / "config.json", config)


def find_problems(folder, caplog, blocks=None):
    """What verification lists before it fails."""
    with pytest.raises(UserError, match=f"{folder} has .* faults?, listed above"):
        verify(folder, blocks)
    return [record.message for record in caplog.records if record.message.startswith("fault: ")]


def test_intact_weights_are_described(folder, blocks, capsys, caplog):
    caplog.set_level("INFO")
    verify(folder, blocks)
    rows = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    assert ["", "4", "4", "64", "57", "1,818,624", "4.500", "1,023.0", "qkv 30, o 9, fc1 9, fc2 9", ""] in rows
    assert ["", "8", "8", "64", "11", "950,272", "8.500", "1,009.7", "adaLN 11", ""] in rows
    assert ["Of all parameters, as stored: 62.5 % in 4 bits, 32.7 % in 8 bits, 4.8 % in 16 bits."] in rows
    assert f"{folder}: all checks pass, and all codes match the blocks" in caplog.text


def test_the_uniform_layout_is_described(study, tmp_path, capsys):
    study.configure(weights=[{"layers": "*", "bits": 4, "group_size": 64}])
    study.quantize()
    study.pack(sorted((study.folder / "adaround").glob("*.safetensors")), tmp_path / "uniform", uniform_g64=True)
    capsys.readouterr()
    verify(tmp_path / "uniform", study.folder / "adaround")
    assert "| 4 | 4 | 64 | 74 | 2,875,392 | 4.500 |" in capsys.readouterr().out


def test_layers_that_no_block_learned_are_named(finished, tmp_path, capsys):
    """As folders of earlier versions have them."""
    shutil.copytree(finished.quantized, tmp_path, dirs_exist_ok=True)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", config | {"rounded": ["context_embedder"]})
    verify(tmp_path)
    assert "Never learned by a block: context_embedder." in capsys.readouterr().out


def test_stored_and_nominal_bits_are_distinguished(study, capsys):
    study.configure(weights=[{"layers": "mm_*", "bits": 4}, {"layers": "*.mlp.fc2", "bits": 7, "group_size": "row"}])
    study.quantize()
    verify(study.quantized, study.folder / "adaround")
    assert "| 7 | 8 | 128 | 9 | 589,824 | 8.250 |" in capsys.readouterr().out
    rewrite(study.quantized, lambda tensors: tensors[FC1.replace("fc1", "fc2") + ".weight"].fill(0xFFFFFFFF))
    with pytest.raises(UserError, match="has 2 faults"):  # the codes' digest, and their width
        verify(study.quantized)


def flip_a_code(tensors):
    tensors[f"{FC1}.weight"][3, 5] ^= 1 << 7


def put(part, value):
    def change(tensors):
        tensors[f"{FC1}.{part}"].flat[7] = value

    return change


def drop(part):
    return lambda tensors: tensors.pop(f"{FC1}.{part}")


def cut(part):
    def change(tensors):
        tensors[f"{FC1}.{part}"] = tensors[f"{FC1}.{part}"][:, 1:]

    return change


def add(name, array):
    return lambda tensors: tensors.update({name: array})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (flip_a_code, f"{FC1}: the codes do not match config.json"),
        (put("scales", np.nan), f"{FC1}.scales: 1 of 1024 values are NaN or infinite"),
        (put("scales", 0), f"{FC1}.scales: 1 of 1024 scales are zero"),
        (put("biases", np.inf), f"{FC1}.biases: 1 of 1024 values are NaN or infinite"),
        (put("bias", np.nan), f"{FC1}.bias: 1 of 512 values are NaN or infinite"),
        (drop("scales"), f"{FC1}: no scales"),
        (drop("weight"), f"mm_01.image.mlp.fc1: model.safetensors has no {FC1}.weight"),
        (lambda tensors: tensors.pop("final_layer.linear.weight"), "final_layer.linear: model.safetensors has no"),
        (cut("weight"), "are not those of 4 bits in groups of 64"),
        (cut("biases"), "are not those of 4 bits in groups of 64"),
        (lambda tensors: tensors.update({f"{FC1}.scales": np.ones((512, 2), np.float32)}), "uint32 and twice float16"),
        (lambda tensors: tensors.update({f"{FC1}.scales": np.float16(1).reshape(())}), "are not a matrix"),
        (add("final_layer.linear.scales", np.ones((64, 2), np.float16)), "config.json has no such quantized layer"),
        (add(f"{FC1}.migration", np.ones(128, np.int32)), "only one of config.json and the file has a migration"),
    ],
)
def test_damaged_tensors_are_found(folder, caplog, change, words):
    rewrite(folder, change)
    assert any(words in problem for problem in find_problems(folder, caplog))


def set_migrated(config):
    config["migrated"] = [FC1]


def forget_codes(config):
    del config["codes"][FC1]


def call_it_3_bits(config):
    config["quantization"][FC1]["bits"] = 3


def call_it_7_bits(config):
    config["nominal_bits"][FC1] = 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config["model"].update(sha256="0" * 64), "does not have the sha256 in config.json"),
        (lambda config: config["model"].update(bytes=1), "bytes, not the 1 config.json names"),
        (lambda config: config.update(bits_per_weight=4.5), "bits_per_weight: config.json says 4.5, the file has 5.87"),
        (lambda config: config["parameters"].update({"4": 0.9}), "parameters: config.json says"),
        (lambda config: config.update(architecture="other"), "the architecture other is not known"),
        (set_migrated, "only one of config.json and the file has a migration"),
        (forget_codes, f"{FC1}: config.json has only one of its bits and its codes"),
        (call_it_3_bits, "are not those of 3 bits in groups of 64"),
        (call_it_7_bits, f"{FC1}: not 7 bits stored as 4"),
    ],
)
def test_a_config_that_disagrees_with_the_file_is_found(folder, caplog, change, words):
    edit(folder, change)
    assert any(words in problem for problem in find_problems(folder, caplog))


def test_codes_are_compared_with_the_seals_of_the_blocks(folder, blocks, caplog):
    path = blocks / "mm_01.json"
    seal = read_file_seal(path)
    seal["sha256"]["codes"]["mm_01.image.mlp.fc1"] = "0" * 64
    write_json(path, make_seal(seal["parameters"], seal["inputs"], seal["sha256"]))
    assert find_problems(folder, caplog, blocks) == [f"fault: {FC1}: its codes differ from those sealed with its block"]


def test_other_or_missing_blocks_are_found(folder, blocks, caplog):
    (blocks / "mm_00.json").unlink()
    seal = read_file_seal(blocks / "mm_01.json")
    write_json(
        blocks / "mm_01.json", make_seal(seal["parameters"] | {"engine": "gptq"}, seal["inputs"], seal["sha256"])
    )
    problems = find_problems(folder, caplog, blocks)
    assert "mm_00.json is missing" in problems[0]
    assert problems[1].startswith("fault: mm_01: packed from other results than")


def test_without_a_config_the_shapes_are_described(folder, capsys):
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json is missing; .* the shapes are described above"):
        verify(folder)
    shown = capsys.readouterr().out
    assert "57 layers of 8 bits in groups of 32 or 4 bits in groups of 64 or 2 bits in groups of 128" in shown
    assert "11 layers of 8 bits in groups of 64 or 4 bits in groups of 128" in shown


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"quantization": {"bits": 4, "group_size": 64}}, "has format None, version None"),
        ({"format": "mlx-affine-checkpoint", "version": 2}, "'architecture' is a required property"),
        ([], "has format None"),
    ],
)
def test_a_config_with_another_format_is_rejected(folder, content, words, capsys):
    write_plain_json(folder / "config.json", content)
    with pytest.raises(UserError, match=words):
        verify(folder)
    assert "57 layers of" in capsys.readouterr().out


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="has no safetensors file"):
        verify(tmp_path)


def test_a_truncated_file_ends_the_process_with_one_line_and_an_error(folder, python):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    found = subprocess.run(
        [python, "-m", "workflow_scripts.tools.verify_weights", folder], capture_output=True, text=True
    )
    assert found.returncode == 1
    assert found.stderr.startswith(f"error: {path} is damaged")
    assert found.stderr.count("\n") == 1


def test_a_flipped_byte_ends_the_process_with_an_error(folder, python):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = subprocess.run(
        [python, "-m", "workflow_scripts.tools.verify_weights", folder], capture_output=True, text=True
    )
    assert found.returncode == 1
    assert "model.safetensors does not have the sha256 in config.json" in found.stderr
    assert "Traceback" not in found.stderr
