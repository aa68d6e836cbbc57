"""The model under `nn.quantize`, and its bits per weight."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from taqmlx.mmdit.blocks import resolve_module
from taqmlx.models import embedded
from taqmlx.planning.layers import list_linears
from taqmlx.planning.plain_ways import Plain
from taqmlx.reconstruction.plain_rounding import bind_plain

LAYERS = list_linears(5)


@pytest.fixture(scope="module")
def model():
    return embedded.load_transformer()


@pytest.mark.parametrize(("plain", "size"), [(Plain(4, 4, 64), 4.5), (Plain(8, 8, 32), 9.0), (Plain(2, 2, 128), 2.25)])
def test_bits_per_weight_count_scales_and_zero_points_in_fp16(model, plain, size):
    assert bind_plain(model, plain)[1] == pytest.approx(size)


def test_a_split_counts_each_part_by_its_share(model):
    sizes = {layer.name: resolve_module(model, layer.path).weight.size for layer in LAYERS}
    share = sum(size for name, size in sizes.items() if "adaLN" in name) / sum(sizes.values())
    assert bind_plain(model, Plain(8, 4, 64))[1] == pytest.approx(8.5 * share + 4.5 * (1 - share))


@pytest.mark.parametrize("name", ["mm_01.image.mlp.fc2", "mm_03.text.adaLN_modulation", "final_layer.linear"])
def test_layers_compute_the_same_as_in_mlx(model, name):
    linear = bind_plain(model, Plain(4, 4, 64))[0](0.5)
    layer = next(layer for layer in LAYERS if layer.name == name)
    module = resolve_module(model, layer.path)
    holder = nn.Sequential(nn.Linear(*module.weight.shape[::-1]))
    holder.layers[0].update({"weight": module.weight.astype(mx.float16), "bias": module.bias.astype(mx.float16)})
    nn.quantize(holder, group_size=64, bits=4)
    x = mx.random.normal((3, module.weight.shape[1]), key=mx.random.key(0))
    found, wanted = np.array(linear(name, x)), np.array(holder(x.astype(mx.float16)).astype(mx.float32))
    assert np.abs(found - wanted).max() <= 4e-3 * np.abs(wanted).max()  # the other computes in fp16
