"""DiffusionKit's loaders of its own two 4-bit checkpoints take ours, unchanged."""

from argparse import Namespace
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from taqmlx.models.diffusionkit import load_model_io
from taqmlx.models.weight_files import FLUX_REPO, LARGE_REPO
from taqmlx.numerics.weight_grid import dequantize
from taqmlx.planning import configuration, plan
from taqmlx.planning.layers import list_linears
from taqmlx.store.block_file import read_block
from taqmlx.store.files import write_json
from tools.miniature import cache, sizes
from tools.small_results.study import write_rounded_blocks
from workflow_scripts.weights import pack_weights

pytestmark = pytest.mark.slow
REPOS = {"sd3.5-large": LARGE_REPO, "flux-schnell": FLUX_REPO}
LOADERS = {"sd3.5-large": "load_mmdit", "flux-schnell": "load_flux"}
CONFIG = {"height": 32, "width": 32, "engine": "rtn", "bits_per_weight": None}
CONFIG |= {"weights": [{"layers": "*", "bits": 4, "group_size": 64, "range": "absmax"}]}
UNGUIDED = {"cfg_scale": 1, "evaluation_cfg": 1}


def take_random_codes(weight, grid):
    """Codes that rounding never gives."""
    return np.random.default_rng(weight.size).integers(0, 2**grid.bits, weight.shape).astype(np.uint8)


@pytest.fixture(params=list(REPOS))
def model(request):
    return request.param


@pytest.fixture
def packed(model, tmp_path, monkeypatch):
    """The packed file, and the codes by layer name."""
    monkeypatch.setitem(sizes.POOLED, "clip_l", 64)  # every width is a multiple of the group size, as of the real model
    wide = replace(sizes.TRANSFORMERS[FLUX_REPO], pooled_text_embed_dim=64)
    monkeypatch.setitem(sizes.TRANSFORMERS, FLUX_REPO, wide)
    cache.install(tmp_path / "hub", cache.make_files(repo=REPOS[model]), monkeypatch)
    changes = {"model": model} | (UNGUIDED if model in plan.UNGUIDED else {})
    config = configuration.complete(CONFIG | changes, configuration.load_schema())
    blocks = write_rounded_blocks(
        tmp_path / "adaround", plan.select_parameters("optimise_block", config, []), take_random_codes
    )
    params, folder = tmp_path / "pack_weights.json", tmp_path / "uniform"
    write_json(params, plan.select_parameters("pack_weights", config, []))
    pack_weights.main(Namespace(params=params, blocks=blocks, mixed=None, out_dir=folder, uniform_g64=True, folds=None))
    learned = {name: layer for path in blocks for name, layer in read_block(path).weights.items()}
    return folder / "model.safetensors", learned


def load_by_diffusionkit(model, path, monkeypatch):
    """The transformer by DiffusionKit's loader of its 4-bit checkpoint, told the small sizes and kept off the net."""
    model_io, key = load_model_io(), f"{REPOS[model]}-4bit-quantized"
    monkeypatch.setitem(model_io._CONFIG, key, sizes.TRANSFORMERS[REPOS[model]])
    monkeypatch.setattr(model_io, "hf_hub_download", lambda *_: None)
    monkeypatch.setattr(model_io, "LOCAl_SD3_CKPT", str(path))
    return getattr(model_io, LOADERS[model])(key, model_key=key, low_memory_mode=False)


def test_every_linear_layer_has_the_learned_codes(model, packed, monkeypatch):
    path, learned = packed
    loaded = load_by_diffusionkit(model, path, monkeypatch)
    modules = {place: module for place, module in loaded.named_modules() if isinstance(module, nn.QuantizedLinear)}
    layers = {layer.path: layer.name for layer in list_linears(*plan.MODEL_BLOCKS[model])}
    assert modules.keys() == layers.keys()
    for place, module in modules.items():
        found = mx.dequantize(module.weight, module.scales, module.biases, group_size=64, bits=4)
        own = learned[layers[place]]
        wanted = dequantize(own.codes, own.grid)
        np.testing.assert_allclose(np.array(found), wanted, atol=1e-6 * np.abs(wanted).max(), err_msg=place)
