"""A block learned with products in 16 bits: its parameters, its errors, and its bytes after an interruption."""

import shutil

import pytest

from taqmlx.store.block_file import read_block
from tests.optimise_block.conftest import quantize, read_report
from tests.support.interruption import interrupt_after_saves
from tools.small_results.shards import hash_tree

DTYPES = ("bfloat16", "float16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_in_16_bits_are_a_parameter_of_the_block_and_give_nearly_its_result(folder, finished, dtype):
    plain, path = read_block(finished["adaround"]), quantize(folder, learning_dtype=dtype)
    assert "learning_dtype" not in plain.seal["parameters"]
    assert read_block(path).seal["parameters"] == plain.seal["parameters"] | {"learning_dtype": dtype}
    errors = [
        {engine: sum(error["quantized_inputs"].values()) for engine, error in read_report(own)["errors"].items()}
        for own in (finished["adaround"], path)
    ]
    assert errors[0]["gptq"] == errors[1]["gptq"]
    assert errors[0]["adaround"] != errors[1]["adaround"]
    assert errors[1]["adaround"] == pytest.approx(errors[0]["adaround"], rel=0.05)
    assert errors[1][read_report(path)["chosen"]] <= errors[1]["gptq"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_with_products_in_16_bits_resumes_and_ends_with_the_same_bytes(captured, tmp_path, monkeypatch, dtype):
    whole, resumed = (tmp_path / name for name in ("whole", "resumed"))
    for folder in (whole, resumed):
        shutil.copytree(captured / "block_inputs.zarr", folder / "block_inputs.zarr")
    interrupt_after_saves(monkeypatch, 2, lambda: quantize(resumed, learning_dtype=dtype))
    files = [quantize(folder, learning_dtype=dtype) for folder in (whole, resumed)]
    assert hash_tree(files[0].parent) == hash_tree(files[1].parent)
