"""Folds change the inputs and weights of layers, and nothing that the model computes."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from taqmlx.mmdit.folds import apply_fold
from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.models import embedded
from taqmlx.models.catalogue import find_model
from taqmlx.planning.configuration import load_schema
from taqmlx.planning.folds import FOLDED_ROLES, list_folds, list_sites, select_sites
from taqmlx.planning.layers import AFTER_GELU
from taqmlx.planning.stage_groups import ModelOptions
from taqmlx.store.errors import UserError
from tests.support.random_folds import fold_randomly

HARDNESS = load_schema()["properties"]["hardness"]["default"]
SITES = {site.name: site for site in list_sites(5)}


def predict(transformer, latents, seen=None):
    """Velocity (6, 8, 8, 16); seen: gets the inputs of the layers by name."""
    exact = bind_linears(transformer)

    def linear(name, x):
        if seen is not None:
            seen[name] = np.array(x.astype(mx.float32))
        return exact(name, x)

    cs, cs_pooled = embedded.encode_prompts(["a red circle", "two green stars"])
    rows, timesteps = mx.array([0, 1] * 3), mx.array([900.0, 120.0])
    return np.array(predict_velocity(transformer, linear, latents, cs[:, 0], cs_pooled[:, 0], timesteps, rows))


@pytest.mark.parametrize("kind", FOLDED_ROLES)
def test_the_velocity_stays_and_the_inputs_are_transformed(latents, kind):
    before, after = {}, {}
    transformer = embedded.load_transformer()
    expected = predict(transformer, latents, before)
    folds = fold_randomly(transformer, kind)
    found = predict(transformer, latents, after)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    for fold in folds:
        for layer in SITES[fold.site].readers:
            x, vector = before[layer.name], fold.vector
            wanted = {
                "scale": lambda x=x, vector=vector: x / vector,
                "centre": lambda x=x, vector=vector: x - vector,
                "permutation": lambda x=x, vector=vector: x[..., vector],
                "rotation": lambda layer=layer: after[layer.name],  # below
            }[kind]()
            np.testing.assert_allclose(after[layer.name], wanted, atol=1e-4 * np.abs(wanted).max())
            if kind == "rotation":
                assert np.abs(after[layer.name] - x).max() > 0.1 * np.abs(x).max()
                heads = (*x.shape[:-1], transformer.config.num_heads, -1)
                norms = [np.linalg.norm(part.reshape(heads), axis=-1) for part in (x, after[layer.name])]
                np.testing.assert_allclose(*norms, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kinds", [*((kind,) for kind in FOLDED_ROLES), tuple(FOLDED_ROLES)], ids="-".join)
@pytest.mark.parametrize("model", ["embedded", "embedded-hard"])
def test_diffusionkits_own_forward_computes_the_same_from_folded_weights(latents, model, kinds):
    before, after = (find_model(model, ModelOptions(hardness=HARDNESS)).load_transformer() for _ in range(2))
    for seed, kind in enumerate(kinds):
        fold_randomly(after, kind, seed)
    expected, found = (run_diffusionkit(transformer, latents) for transformer in (before, after))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def run_diffusionkit(transformer, latents):
    """Velocity (2, 8, 8, 16) by DiffusionKit's forward, whose adaLN outputs are computed first."""
    cs, cs_pooled = embedded.encode_prompts(["a red circle", "two green stars"])
    timesteps = mx.array([613.0, 613.0])
    transformer.cache_modulation_params(cs_pooled[:, 0], timesteps[:1])
    return np.array(transformer(latents[:2], cs[:, 0][:, :, None], timesteps))


def test_scales_that_are_powers_of_two_round_no_weight_in_half():
    transformer = embedded.load_transformer()
    transformer.set_dtype(mx.float16)
    weights = dict(tree_flatten(transformer.parameters()))
    site = SITES["mm_02.attn.o_proj"]
    scales = np.exp2(np.arange(len(weights[f"{site.readers[0].path}.weight"])) % 5 - 2).astype(np.float32)
    changed = apply_fold(weights, site, "scale", scales, transformer.config.num_heads)
    for layer in site.readers:
        name = f"{layer.path}.weight"
        assert changed[name].dtype == mx.float16
        found, exact = np.array(changed[name]), np.array(weights[name])
        is_normal = np.abs(found) >= np.finfo(np.float16).smallest_normal
        np.testing.assert_array_equal(found[is_normal], (exact * scales)[is_normal])
        assert is_normal.mean() > 0.99


def test_image_and_text_share_what_the_attention_mixes():
    assert [layer.name for layer in SITES["mm_00.attn.o_proj"].writers] == [
        "mm_00.image.attn.v_proj",
        "mm_00.text.attn.v_proj",
    ]
    assert len(SITES["mm_04.attn.o_proj"].readers) == 1  # the text ends here


def test_q_k_and_v_share_one_scale_and_with_fc1_in_a_unified_block():
    names = lambda sites: {  # noqa: E731
        site.name: [layer.name.rsplit(".", 1)[1] for layer in site.readers] for site in sites if site.role == "qkv"
    }
    assert set(map(tuple, names(list_sites(2)).values())) == {("q_proj", "k_proj", "v_proj")}
    unified = [site for site in list_sites(0, 1) if site.role == "qkv"]
    assert sorted(layer.name.rsplit(".", 1)[1] for layer in unified[0].readers) == ["fc1", "k_proj", "q_proj", "v_proj"]


def test_a_pattern_selects_the_sites_of_its_kind_that_a_named_layer_reads():
    sites = list(SITES.values())
    found = select_sites(sites, {"layers": "*.text.mlp.*", "kind": "permutation"})
    assert {site.role for site in found} == {AFTER_GELU}
    assert len(found) == 4
    assert select_sites(sites, {"layers": "*.mlp.*", "kind": "rotation"}) == []
    twice = [{"layers": "*", "kind": "rotation"}, {"layers": "mm_01.*", "kind": "rotation"}]
    assert [(site.name, kind) for site, kind in list_folds(sites, twice, "mm_01")] == [
        ("mm_01.attn.o_proj", "rotation")
    ]


def test_a_norm_without_a_bias_that_a_scale_needs_is_rejected():
    transformer = embedded.load_transformer()
    weights = dict(tree_flatten(transformer.parameters()))
    site = next(site for site in SITES.values() if site.role == "fc1")
    del weights[f"{site.writers[0].path}.bias"]
    with pytest.raises(UserError, match=r"folds: .*adaLN_modulation has no bias, which a scale of .* changes"):
        apply_fold(weights, site, "scale", np.ones(128, np.float32), 2)


def test_a_rotation_of_heads_of_other_sizes_is_rejected():
    weights = dict(tree_flatten(embedded.load_transformer().parameters()))
    with pytest.raises(UserError, match="a rotation needs heads of a power of two channels, not of"):
        apply_fold(weights, SITES["mm_00.attn.o_proj"], "rotation", np.ones(128, np.float32), 3)
