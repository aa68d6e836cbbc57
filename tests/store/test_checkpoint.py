"""A checkpoint is restored exactly, or reported as damaged."""

import numpy as np
import pytest

from taqmlx.store.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from taqmlx.store.errors import UserError

LATENTS = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
CHECKPOINT = Checkpoint("f", 4, 25, ["a", "b"], LATENTS)


def test_a_checkpoint_is_restored_bit_for_bit(tmp_path):
    write_checkpoint(tmp_path / "checkpoint", CHECKPOINT)
    found = read_checkpoint(tmp_path / "checkpoint")
    assert (found.fingerprint, found.row, found.step, found.digests) == ("f", 4, 25, ["a", "b"])
    assert found.latents.tobytes() == LATENTS.tobytes()
    assert found.latents.shape == LATENTS.shape


def test_replacing_it_leaves_one_file(tmp_path):
    for step in (25, 50):
        write_checkpoint(tmp_path / "checkpoint", Checkpoint("f", 4, step, [], LATENTS))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert read_checkpoint(tmp_path / "checkpoint").step == 50


@pytest.mark.parametrize("length", [0, 10, 64, 65, 100, 200, -1])
def test_a_truncated_checkpoint_is_found(tmp_path, length):
    path = tmp_path / "checkpoint"
    write_checkpoint(path, CHECKPOINT)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="checkpoint is damaged"):
        read_checkpoint(path)


def test_a_flipped_bit_is_found_anywhere(tmp_path):
    path = tmp_path / "checkpoint"
    write_checkpoint(path, CHECKPOINT)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match="checkpoint is damaged"):
            read_checkpoint(path)
