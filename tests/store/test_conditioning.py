"""Encodings are read prompt by prompt, each checked against the seal."""

import math
import tracemalloc

import numpy as np
import pytest

from taqmlx.store.conditioning import list_inputs, open_conditioning, write_conditioning
from taqmlx.store.errors import UserError

PARAMETERS = {"model": "m", "negative_prompt": "", "prompts": ["a", "b", "a"]}
RNG = np.random.default_rng(0)
CS = RNG.normal(size=(3, 2, 4, 5)).astype(np.float32)
CS_POOLED = RNG.normal(size=(3, 2, 6)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "conditioning.safetensors"
    write_conditioning(path, PARAMETERS, {"w": "00"}, zip(CS, CS_POOLED, strict=True))
    return path


def test_prompts_are_read_by_index(path):
    conditioning = open_conditioning(path, PARAMETERS)
    cs, cs_pooled = conditioning.read([2, 0])
    assert np.array_equal(cs, CS[[2, 0]])
    assert np.array_equal(cs_pooled, CS_POOLED[[2, 0]])
    assert conditioning.read_shapes() == {"cs_shape": [3, 2, 4, 5], "cs_pooled_shape": [3, 2, 6]}


def test_a_shard_depends_on_its_own_prompts_only(path):
    conditioning = open_conditioning(path, PARAMETERS)
    inputs = list_inputs(conditioning, [[1, 1], [4, 1]])
    assert inputs == {"conditioning": conditioning.list_digests([1]), "model": {"w": "00"}}


@pytest.mark.parametrize("change", [{"model": "n"}, {"negative_prompt": "x"}, {"prompts": ["a", "b"]}])
def test_encodings_of_other_parameters_are_rejected(path, change):
    with pytest.raises(UserError, match=r"conditioning.json was made with other parameters"):
        open_conditioning(path, PARAMETERS | change)


def test_damage_is_named(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    conditioning = open_conditioning(path, PARAMETERS)
    conditioning.read([0, 1])
    with pytest.raises(UserError, match=r"conditioning.safetensors does not match .*conditioning.json"):
        conditioning.read([2])


@pytest.mark.parametrize("length", [None, 0, 50, 300])
def test_a_missing_or_truncated_file_is_named(path, length):
    content = path.read_bytes()
    path.unlink()
    if length is not None:
        path.write_bytes(content[:length])
    with pytest.raises(UserError, match=r"conditioning.safetensors is missing or damaged"):
        open_conditioning(path, PARAMETERS).read([0])


def test_the_memory_of_writing_does_not_grow_with_the_prompts(tmp_path):
    """Of the pooled encodings, which are small, those of all prompts are kept till the end."""
    shape, pooled, count = (2, 40, 4096), (2, 8), 24
    size = 4 * math.prod(shape)

    def draw():
        for index in range(count):
            yield np.full(shape, index, np.float32), np.full(pooled, index, np.float32)

    path = tmp_path / "conditioning.safetensors"
    parameters = PARAMETERS | {"prompts": [str(index) for index in range(count)]}
    tracemalloc.start()
    write_conditioning(path, parameters, {"w": "00"}, draw())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * size + count * 4 * math.prod(pooled)
    cs, cs_pooled = open_conditioning(path, parameters).read([count - 1])
    assert cs.min() == cs.max() == cs_pooled.min() == cs_pooled.max() == count - 1
