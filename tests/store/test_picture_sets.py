"""Pictures, their seals and their features belong together."""

import numpy as np
import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, write_json
from taqmlx.store.picture_sets import PictureSet, check_pairs, list_sealed
from taqmlx.store.pictures import is_drawn, name_picture, read_latents, write_picture
from taqmlx.store.seal import make_seal

ABOUT = {"prompt": "a red circle", "seed": 7}


@pytest.fixture
def seal(tmp_path):
    """The seal of two pictures."""
    digests = {}
    for seed in (7, 8):
        path = name_picture(tmp_path / "00", seed)
        path.parent.mkdir(exist_ok=True)
        write_picture(path, np.full((8, 8, 3), seed, np.uint8), np.full((2, 2, 4), seed, np.float32), ABOUT)
        digests[path.name] = [hash_file(path), hash_file(path.with_suffix(".safetensors"))]
    write_json(tmp_path / "00.json", make_seal({"pictures": [[0, 8], [1, 7]]}, {}, digests))
    return tmp_path / "00.json"


def test_pictures_are_in_the_order_of_their_seal(seal):
    assert [path.name for path in list_sealed(seal)[1]] == ["0000000008.png", "0000000007.png"]


@pytest.mark.parametrize("suffix", [".png", ".safetensors"])
def test_a_swapped_picture_or_latent_is_named(seal, suffix):
    first, second = (name_picture(seal.with_suffix(""), seed).with_suffix(suffix) for seed in (7, 8))
    first.write_bytes(second.read_bytes())
    with pytest.raises(UserError, match=rf"0000000007{suffix} is missing or not what was drawn; delete .*00.json"):
        list_sealed(seal)


def test_a_flipped_bit_in_a_picture_or_its_latents_is_found(seal):
    for suffix in (".png", ".safetensors"):
        path = name_picture(seal.with_suffix(""), 7)
        assert is_drawn(path, ABOUT)
        whole = path.with_suffix(suffix).read_bytes()
        for place in range(len(whole) - 20, len(whole) - 12):
            content = bytearray(whole)
            content[place] ^= 1
            path.with_suffix(suffix).write_bytes(content)
            assert not is_drawn(path, ABOUT)
        path.with_suffix(suffix).write_bytes(whole)


def test_non_finite_latents_are_rejected(tmp_path):
    path = name_picture(tmp_path, 1)
    write_picture(path, np.zeros((8, 8, 3), np.uint8), np.full((2, 2, 4), np.nan, np.float32), ABOUT)
    with pytest.raises(UserError, match=r"0000000001\.safetensors: latents has values that are not finite"):
        read_latents(path)


def test_pairs_have_equal_prompts_and_seeds():
    sets = [PictureSet(None, rows, []) for rows in ([(0, 11), (1, 12)], [(0, 1), (1, 2)], [(0, 1), (1, 3)])]
    check_pairs("other seeds", sets[0], "fp", sets[1], moved=10)
    with pytest.raises(UserError, match="w4a8 has 2 pictures and fp 2, which are not of the same prompts and seeds"):
        check_pairs("w4a8", sets[2], "fp", sets[1], moved=0)
