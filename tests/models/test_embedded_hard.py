"""The hard twin is the embedded model with outliers in its layer inputs, whatever parts of its hardness are chosen."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.mmdit.sampling import sample
from taqmlx.models import embedded, outliers
from taqmlx.models.catalogue import find_model
from taqmlx.models.classifier import compare_attributes, judge_pictures, load_classifier
from taqmlx.numerics.quality import measure_relative_error
from taqmlx.numerics.schedule import draw_noise
from taqmlx.planning.configuration import load_schema
from taqmlx.planning.layers import list_linears
from taqmlx.planning.plan import MODEL_BLOCKS
from taqmlx.planning.stage_groups import ModelOptions
from taqmlx.training.pool import draw_example
from taqmlx.training.scoring import write_captions

PARTS = load_schema()["properties"]["hardness"]["default"]
SUBSETS = [[], *([part] for part in PARTS), ["norm", "value"], ["offset", "post_gelu", "spike"], PARTS]
CAPTIONS = [caption for objects in (1, 2) for caption in write_captions(77, 8, objects)]
PROMPTS = [caption.text for caption in CAPTIONS]
SIGMAS = [0.99, 0.9, 0.7, 0.4, 0.1]
LAYERS = {layer.name: layer for layer in list_linears(*MODEL_BLOCKS["embedded-hard"])}


def create(hardness):
    """The hard twin with these parts."""
    return find_model("embedded-hard", ModelOptions(hardness=hardness))


def run_forward(model, linear=None):
    """Velocity of seven prompts and the empty one, at five noise levels between drawn pictures and noise."""
    transformer = model.load_transformer()
    cs, cs_pooled = (mx.concatenate([part[:7, 0], part[:1, 1]]) for part in model.encode_prompts(PROMPTS))
    clean = embedded.encode_pictures(embedded.load_encoder(), np.stack([draw_example(3, i)[1] for i in range(8)]))
    noise = mx.random.normal(clean.shape, key=mx.random.key(5))
    latents = mx.concatenate([sigma * noise + (1 - sigma) * clean for sigma in SIGMAS])
    timesteps = mx.repeat(1000 * mx.array(SIGMAS), 8)
    repeated = (mx.concatenate([part] * 5) for part in (cs, cs_pooled))
    linear = linear or bind_linears(transformer)
    return np.array(predict_velocity(transformer, linear, latents, *repeated, timesteps, mx.arange(40)))


def observe_inputs(model):
    """Layer inputs (tokens, D) of `run_forward`, by name of the input."""
    linear, inputs = bind_linears(model.load_transformer()), {}

    def observing(name, x):
        inputs[LAYERS[name].input] = np.array(x).reshape(-1, x.shape[-1])
        return linear(name, x)

    run_forward(model, observing)
    return inputs


def draw(model):
    """Final latents of PROMPTS, 28 steps, guidance 3."""
    transformer, noise = model.load_transformer(), draw_noise(range(600, 600 + len(PROMPTS)), *model.LATENT_SHAPE)
    linear, start = bind_linears(transformer), (*model.encode_prompts(PROMPTS), noise, model.compute_sigmas(28))
    return np.array(sample(transformer, lambda sigma: linear, *start, 3.0))


@pytest.fixture(scope="module")
def velocity():
    return run_forward(embedded)


@pytest.fixture(scope="module")
def easy():
    return observe_inputs(embedded)


@pytest.fixture(scope="module")
def hard():
    return observe_inputs(create(PARTS))


@pytest.mark.parametrize("hardness", SUBSETS, ids="-".join)
def test_the_velocity_is_that_of_the_embedded_model(velocity, hardness):
    assert measure_relative_error(run_forward(create(hardness)), velocity) < 1e-6


def test_pictures_are_those_of_the_embedded_model_and_follow_their_captions_as_often():
    wanted, found = draw(embedded), draw(create(PARTS))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    decoder, classifier = embedded.load_decoder(), load_classifier()
    own, other = (judge_pictures(classifier, embedded.decode_latents(decoder, mx.array(x)))[0] for x in (found, wanted))
    np.testing.assert_array_equal(own, other)
    assert compare_attributes(own, np.array([caption.asked for caption in CAPTIONS])).all(axis=1).mean() > 0.8


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("mm_00.image.attn.qkv", 10),
        ("mm_00.text.attn.qkv", 8),
        ("mm_00.text.mlp.fc1", 15),
        ("mm_03.image.attn.o_proj", 3.5),
        ("mm_02.text.mlp.fc1", 20),
        ("mm_03.text.mlp.fc1", 60),
        ("mm_00.text.mlp.fc2", 40),
        ("mm_02.text.mlp.fc2", 15),
        ("mm_03.text.mlp.fc2", 12),
        ("final_layer.linear", 8),
        ("context_embedder", 40),
    ],
)
def test_inputs_have_channels_far_above_the_median_one(easy, hard, name, least):
    assert find_spread(easy[name]) < least / 1.5 < least < find_spread(hard[name])


def find_spread(x):
    """Absmax of the largest channel of x (tokens, D), over that of the median channel."""
    absmax = np.abs(x).max(axis=0)
    return absmax.max() / np.median(absmax)


def test_the_offset_is_a_constant_that_a_shift_takes_away(easy, hard):
    name = "mm_03.text.mlp.fc1"
    channel = np.abs(hard[name].mean(axis=0)).argmax()
    assert abs(hard[name][:, channel].mean()) > 0.8 * np.abs(hard[name]).max()
    shifted = hard[name] - (hard[name].max(axis=0) + hard[name].min(axis=0)) / 2
    assert np.abs(shifted).max() < 4 * np.abs(easy[name]).max()


def test_units_that_are_always_on_pass_the_gelu_unchanged_and_many_are_large(hard):
    x = hard["mm_03.text.mlp.fc2"]
    always = x.min(axis=0) > 5
    assert always.sum() == 128
    assert np.abs(x.mean(axis=0))[always].max() > 10 * np.median(np.abs(x).max(axis=0))


@pytest.mark.parametrize("name", ["mm_00.text.mlp.fc2", "mm_02.text.mlp.fc2"])
def test_spikes_are_of_the_first_token_alone(hard, name):
    x = hard[name].reshape(40, 20, -1)  # (rows, tokens, D)
    spiking = (x[:, 0].min(axis=0) > 20) & (np.abs(x[:, 1:]).max(axis=(0, 1)) < 0.2)
    assert spiking.sum() == 4


def test_a_part_changes_its_own_inputs_only(easy):
    found = observe_inputs(create(["offset"]))
    same = {name: np.allclose(found[name][:, : x.shape[1]], x, atol=1e-3) for name, x in easy.items()}
    assert [name for name in same if not same[name]] == ["mm_02.text.mlp.fc1", "mm_03.text.mlp.fc1"]


def test_the_parts_are_told_apart_by_their_digests_and_their_order_is_not():
    digests = [create(hardness).file_digests() for hardness in SUBSETS]
    assert len({found["hardness"] for found in digests}) == len(SUBSETS)
    assert create(PARTS[::-1]).file_digests() == create(PARTS).file_digests()
    for found in digests:
        assert embedded.file_digests().items() < found.items()


def test_encodings_of_one_prompt_at_a_time_are_those_of_all():
    model = create(PARTS)
    cs, cs_pooled = zip(*model.iterate_encodings(PROMPTS, "", None), strict=True)
    for found, wanted in zip((np.stack(cs), np.stack(cs_pooled)), model.encode_prompts(PROMPTS), strict=True):
        np.testing.assert_array_equal(found, np.array(wanted))


def test_no_more_units_fit_than_are_spare():
    weights = {"s.mlp.fc1.weight": np.ones((4, 2)), "s.mlp.fc1.bias": np.ones(4), "s.mlp.fc2.weight": np.ones((2, 4))}
    weights |= {"s.mlp.fc2.bias": np.ones(2)}
    outliers.widen_mlps(weights, 5)
    units = np.ones((2, 2)), np.ones(2), np.ones((2, 2)), np.zeros(2)
    with pytest.raises(ValueError, match="1 spare units, not 2"):
        outliers.add_units(weights, "s", *units)
