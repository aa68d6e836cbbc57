"""The registry names every linear of DiffusionKit's transformer once."""

import mlx.nn as nn
import pytest

from taqmlx.mmdit.blocks import resolve_module
from taqmlx.models.diffusionkit import config, mmdit
from taqmlx.planning.layers import list_block_linears, list_linears


@pytest.fixture(scope="module")
def sd3_medium():
    """Stable Diffusion 3 Medium in full size; MLX is lazy, so no weight is ever made."""
    return mmdit.MMDiT(config.SD3_2b)


def list_module_paths(model):
    return {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize(("depths", "count"), [((24, 0), 285), ((38, 0), 453), ((19, 38), 456)])
def test_the_released_models_have_the_published_number_of_quantizable_linears(depths, count):
    """Stable Diffusion 3 Medium, 3.5 Large and FLUX.1-schnell."""
    assert len(list_block_linears(*depths)) == count


@pytest.mark.parametrize("sizes", [config.SD3_8b, config.FLUX_SCHNELL], ids=["sd3.5-large", "flux-schnell"])
def test_every_linear_of_the_larger_models_is_named_once(sizes):
    layers = list_linears(sizes.depth_multimodal, sizes.depth_unified)
    assert {layer.path for layer in layers} == list_module_paths(mmdit.MMDiT(sizes))
    assert len({layer.name for layer in layers}) == len(layers)


def test_every_linear_of_sd3_medium_is_named_once(sd3_medium):
    layers = list_linears(24)
    assert {layer.path for layer in layers} == list_module_paths(sd3_medium)
    assert len({layer.name for layer in layers}) == len(layers)


def test_quantizable_linears_are_a_subset_of_all():
    assert set(list_block_linears(5)) < set(list_linears(5))


def test_shapes_at_the_paths_follow_the_roles(sd3_medium):
    shapes = {"qkv": (1536, 1536), "o": (1536, 1536), "fc1": (6144, 1536), "fc2": (1536, 6144)}
    for layer in list_block_linears(24):
        assert resolve_module(sd3_medium, layer.path).weight.shape == shapes[layer.role], layer


def test_names_are_those_of_the_streams():
    layer = next(layer for layer in list_block_linears(2) if layer.name == "mm_00.image.attn.q_proj")
    assert layer.path == "multimodal_transformer_blocks.0.image_transformer_block.attn.q_proj"
    assert (layer.block, layer.stream, layer.role, layer.input) == ("mm_00", "image", "qkv", "mm_00.image.attn.qkv")


def test_query_key_and_value_share_one_input():
    layers = [layer for layer in list_block_linears(1) if layer.role == "qkv" and layer.stream == "image"]
    assert [layer.name.rsplit(".", 1)[1] for layer in layers] == ["q_proj", "k_proj", "v_proj"]
    assert {layer.input for layer in layers} == {"mm_00.image.attn.qkv"}


def test_other_quantizable_linears_have_their_own_input():
    layers = [layer for layer in list_block_linears(3) if layer.role != "qkv"]
    assert all(layer.input == layer.name for layer in layers)


def test_all_adaln_linears_share_the_modulation_input():
    layers = [layer for layer in list_linears(3) if layer.role == "adaLN"]
    assert len(layers) == 7
    assert {layer.input for layer in layers} == {"modulation"}


def test_the_last_text_stream_ends_at_the_attention():
    text = [layer.role for layer in list_block_linears(2) if layer.block == "mm_01" and layer.stream == "text"]
    assert text == ["qkv", "qkv", "qkv"]


def test_with_unified_blocks_every_multimodal_block_has_both_streams():
    layers = list_block_linears(2, 3)
    assert len(layers) == 2 * 12 + 3 * 6
    assert layers[-1].name == "uni_02.unified.mlp.fc2"
    assert layers[-1].path == "unified_transformer_blocks.2.transformer_block.mlp.fc2"


def test_the_mlp_and_the_attention_of_a_unified_block_share_one_input():
    layers = [layer for layer in list_block_linears(0, 1) if layer.input == "uni_00.unified.attn.qkv"]
    assert [layer.role for layer in layers] == ["qkv", "qkv", "qkv", "fc1"]
