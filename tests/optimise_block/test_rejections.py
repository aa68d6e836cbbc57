"""A finished block is kept, and damaged, foreign or missing files are named."""

import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from taqmlx.planning import plan
from taqmlx.planning.block_plan import select_block
from taqmlx.store.block_file import read_block, write_block
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.seal import identify_work, make_seal, read_file_seal, read_group_seal, write_group_seal
from tests.optimise_block.conftest import configure, quantize, select
from tests.support.kill_block import list_arguments
from tools.small_results import study as small
from tools.small_results.shards import hash_tree
from workflow_scripts.blocks import optimise_block


def test_a_finished_block_is_kept(copy, caplog):
    arguments = list_arguments(copy)
    before = hash_tree(arguments.out.parent)
    arguments.scratch.mkdir(parents=True)
    with caplog.at_level(logging.INFO, "taqmlx"):
        quantize(copy, engine="rtn", replace=True)
    assert "mm_00.safetensors is already finished" in caplog.text
    assert hash_tree(arguments.out.parent) == before
    assert not arguments.scratch.exists()


def test_a_finished_block_with_other_parameters_is_replaced_only_with_overwrite(copy, caplog):
    changes = {"engine": "rtn", "weights": [{"layers": "*", "bits": 5}]}
    words = r"layers.mm_00.image.adaLN_modulation.weight.bits: 8 there, 5 in"
    before = hash_tree(copy / "adaround")
    with pytest.raises(UserError, match=rf"^\S+mm_00\.safetensors was made with other parameters \({words}[^\n]+$"):
        quantize(copy, **changes)
    assert hash_tree(copy / "adaround") == before
    with caplog.at_level(logging.INFO, "taqmlx"):
        path = quantize(copy, replace=True, **changes)
    assert re.search(rf"other parameters \({words}.*; it is replaced", caplog.text)
    assert read_block(path).seal["parameters"] == select_block(select("optimise_block", **changes), "mm_00")


# What it is made of


def test_an_unknown_block_is_rejected(folder):
    write_json(folder / "params.json", configure(folder) | {"block": "mm_05"})
    with pytest.raises(UserError, match="mm_05: the model embedded has the blocks mm_00, mm_01, mm_02, mm_03, mm_04"):
        optimise_block.main(list_arguments(folder, "mm_05"))


def test_a_missing_shard_is_named(folder):
    configure(folder)
    one = list_arguments(folder).inputs[:1]
    with pytest.raises(UserError, match="shards 00, 01 are needed and 00 are named"):
        optimise_block.main(list_arguments(folder, inputs=one))
    with pytest.raises(UserError, match=r"02/zarr.json is missing"):
        optimise_block.main(list_arguments(folder, inputs=[*one, folder / "block_inputs.zarr" / "02"]))


def test_inputs_of_another_model_are_rejected(folder):
    for part in list_arguments(folder).inputs:
        seal = read_group_seal(part)
        inputs = seal["inputs"] | {"model": dict.fromkeys(seal["inputs"]["model"], "0" * 64)}
        write_group_seal(part, make_seal(seal["parameters"], inputs, seal["sha256"]))
    with pytest.raises(UserError, match=r"00 was made with other inputs \(model"):
        quantize(folder)


def test_a_damaged_row_is_named(folder):
    chunk = folder / "block_inputs.zarr/01/image/c.1.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"01/image/c\.1\.0\.0\.0 is damaged"):
        quantize(folder, engine="rtn")


def test_a_chained_block_reads_the_quantized_blocks_before_it(folder):
    chained = {"engine": "gptq", "block_inputs": "quantized"}
    quantize(folder, "mm_00", **chained)
    path = quantize(folder, "mm_01", before=("mm_00",), **chained)
    chain = read_block(path)
    assert chain.seal["inputs"]["before"] == [identify_work(read_file_seal(folder / "adaround/mm_00.json"))]
    shutil.rmtree(folder / "adaround")
    alone = read_block(quantize(folder, "mm_01", engine="gptq"))
    assert any((layer.codes != alone.weights[name].codes).any() for name, layer in chain.weights.items())


def test_another_previous_block_makes_another_chained_block(folder):
    chained = {"engine": "rtn", "block_inputs": "quantized"}
    quantize(folder, "mm_00", **chained)
    quantize(folder, "mm_01", before=("mm_00",), **chained)
    quantize(folder, "mm_00", replace=True, weights=[{"layers": "*", "bits": 5}], **chained)
    with pytest.raises(UserError, match=r"mm_01\.safetensors was made with other inputs \(before"):
        quantize(folder, "mm_01", before=("mm_00",), **chained)


def write_small(folder: Path, parameters: plan.Parameters) -> Path:
    """A folder with a block's file that holds no layer."""
    place = folder / "small" / f"{parameters['block']}.safetensors"
    write_block(place, {}, {}, np.array(small.SIGMAS, np.float32), parameters, {})
    return place.parent


# Interruptions


@pytest.mark.parametrize(
    ("how", "block", "before"),
    [
        ("quantized", "mm_01", ()),
        ("quantized", "mm_02", ("mm_01", "mm_00")),
        ("quantized", "mm_00", ("mm_00",)),
        ("full_precision", "mm_01", ("mm_00",)),
    ],
)
def test_wrong_previous_blocks_are_rejected(folder, how, block, before):
    for name in before:
        configure(folder, name)
        small_block = select_block(select("optimise_block", engine="rtn", block_inputs=how), name)
        shutil.copytree(write_small(folder, small_block), folder / "adaround", dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"--before: the files of blocks \[.*\] are needed in this order, and \["):
        quantize(folder, block, before=before, engine="rtn", block_inputs=how)
