"""MLX's products with packed weights are compared with those of the dequantized weights."""

import numpy as np
import pytest

from taqmlx.checks.packed_products import ROWS, PackedLinear, find_wrong_products
from taqmlx.numerics.weight_grid import choose_grid, pack_codes, round_to_grid


def make_layer(bits, group_size, inputs=128, outputs=96):
    weight = np.random.default_rng(bits).standard_normal((outputs, inputs)).astype(np.float32)
    rule = {"bits": bits, "group_size": group_size, "symmetric": False, "range": "absmax"}
    grid = choose_grid(weight, rule)
    return PackedLinear(pack_codes(round_to_grid(weight, grid), bits), grid.scales, grid.biases, bits, group_size)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_the_products_of_this_mlx_are_right(bits, group_size):
    assert list(find_wrong_products({"layer": make_layer(bits, group_size)})) == []


def test_a_wrong_product_is_named_with_its_rows():
    sound, broken = make_layer(4, 64), make_layer(8, 32)
    broken = broken._replace(biases=np.full_like(broken.biases, np.nan))  # no tolerance takes it
    lines = list(find_wrong_products({"a": sound, "b": broken}))
    assert [line.partition(" with ")[0].split()[-2:] for line in lines] == [[str(rows), "rows"] for rows in ROWS]
    assert all(line.startswith("b: MLX ") for line in lines)


def test_one_layer_of_every_kind_is_tested():
    """The narrowest: a broken wide one of the same kind is not looked at, one of another kind is."""
    broken = make_layer(4, 64, inputs=512)
    broken = broken._replace(scales=broken.scales * np.float16(np.nan))
    assert list(find_wrong_products({"narrow": make_layer(4, 64), "wide": broken})) == []
    assert len(list(find_wrong_products({"narrow": make_layer(4, 32), "wide": broken}))) == len(ROWS)
