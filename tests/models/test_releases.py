"""Stable Diffusion 3.5 Large and FLUX.1-schnell in miniature agree with DiffusionKit's own pipelines."""

from functools import partialmethod

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from safetensors.numpy import load, save_file

from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.sampling import sample
from taqmlx.models.catalogue import find_model
from taqmlx.models.diffusionkit import load_pipeline_module
from taqmlx.models.releases import RELEASES
from taqmlx.models.sd3 import MODELS
from taqmlx.models.weight_files import CHECKPOINT_REPO
from taqmlx.numerics import schedule
from taqmlx.planning import plan
from taqmlx.planning.folds import FOLDED_ROLES
from taqmlx.planning.stage_groups import ModelOptions
from taqmlx.store.errors import UserError
from tests.models.test_sd3 import TOLERANCE, keep_latents, measure_error, predict
from tests.support.random_folds import fold_randomly
from tools.miniature import cache

PROMPTS, NEGATIVE = ["a red circle on the table", "a photo of a tabby cat 2"], "blue square"
HEIGHT, WIDTH, STEPS, SEED = 64, 96, 3, 5
GUIDANCE = {"sd3.5-large": 4.0, "flux-schnell": plan.NO_GUIDANCE}


@pytest.fixture(scope="module", params=list(GUIDANCE))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def files(name):
    return cache.make_files(repo=RELEASES[name].repo)


@pytest.fixture(autouse=True)
def hub(files, tmp_path, monkeypatch):
    """A Hub cache with that miniature, offline."""
    cache.install(tmp_path / "hub", files, monkeypatch)
    # The MLX that DiffusionKit's FLUX loader is written for passes over what a module has not.
    monkeypatch.setattr(nn.Module, "update", partialmethod(nn.Module.update, strict=False))


def create(name, **settings):
    weights_from = settings.pop("weights_from", None)
    given = {"use_t5": True, "height": HEIGHT, "width": WIDTH} | settings
    return find_model(name, ModelOptions(**given), weights_from)


def create_pipeline(name):
    module, repo = load_pipeline_module(), RELEASES[name].repo
    if name == "flux-schnell":
        return module.FluxPipeline(shift=1.0, model_version=repo, low_memory_mode=False)
    return module.DiffusionPipeline(shift=3.0, model_version=repo, low_memory_mode=False)


def test_truncated_text_is_counted_by_encoder(name):
    limit = RELEASES[name].t5_tokens
    clip, t5 = create(name).describe_dropped(["a red circle", "red " * 720])
    assert clip == "beyond the 77 tokens of CLIP in 1 of 2 prompts (up to 722)"
    assert t5.startswith(f"beyond the {limit} tokens of T5 in 1 of 2 prompts")


def test_the_noise_levels_are_those_of_the_pipeline(name):
    pipeline = create_pipeline(name)
    for steps in (1, 4, 28):
        wanted = pipeline.get_sigmas(pipeline.sampler, steps)
        np.testing.assert_allclose(np.array(create(name).compute_sigmas(steps)), np.array(wanted), rtol=2e-7)


def test_prompts_are_encoded_as_by_the_pipeline(name):
    """FLUX: T5's 256 tokens and one CLIP model's pooled embedding, and no negative prompt."""
    cs, cs_pooled = create(name).encode_prompts(PROMPTS, NEGATIVE)
    shapes = {"sd3.5-large": [(2, 2, 589, 4096), (2, 2, 64)], "flux-schnell": [(2, 1, 256, 4096), (2, 1, 24)]}
    assert [cs.shape, cs_pooled.shape] == shapes[name]
    pipeline = create_pipeline(name)
    for found, found_pooled, prompt in zip(cs, cs_pooled, PROMPTS, strict=True):
        wanted, wanted_pooled = pipeline.encode_text(prompt, GUIDANCE[name], NEGATIVE)
        assert measure_error(found, wanted) <= 1e-6
        assert measure_error(found_pooled, wanted_pooled) <= 1e-6


def test_one_forward_equals_that_of_diffusionkit(name):
    transformer = create(name).load_transformer()
    found, wanted = predict(transformer)
    print(name, "forward", measure_error(found, wanted))
    assert measure_error(found, wanted) <= TOLERANCE[mx.float32]


@pytest.mark.parametrize("kind", FOLDED_ROLES)
def test_folded_weights_have_the_same_velocity_in_both_forwards(name, kind):
    model = create(name)
    expected, folded = predict(model.load_transformer())[0], model.load_transformer()
    fold_randomly(folded, kind)
    for velocity in predict(folded):
        assert measure_error(velocity, expected) <= 1e-5


def test_a_picture_equals_that_of_the_pipeline(name, monkeypatch):
    model, pipeline = create(name), create_pipeline(name)
    kept = keep_latents(pipeline, monkeypatch)
    weight = GUIDANCE[name] if RELEASES[name].guided else 0.0  # DiffusionKit's way to say: without guidance
    shape = model.LATENT_SHAPE[:2]
    image, _ = pipeline.generate_image(PROMPTS[0], STEPS, weight, NEGATIVE, shape, SEED, verbose=False)
    transformer = model.load_transformer()
    linear, noise = bind_linears(transformer), schedule.draw_noise([SEED, SEED + 1], *model.LATENT_SHAPE)
    conditions, sigmas = model.encode_prompts(PROMPTS, NEGATIVE), model.compute_sigmas(STEPS)
    latents = sample(transformer, lambda sigma: linear, *conditions, noise, sigmas, GUIDANCE[name])
    wanted = pipeline.latent_format.process_in(kept[0])
    print(name, "latents", measure_error(latents[:1], wanted))
    assert measure_error(latents[:1], wanted) <= TOLERANCE[mx.float32]
    pictures = model.decode_latents(model.load_decoder(), latents)
    assert np.ptp(pictures[0]) > 50
    # DiffusionKit cuts the fraction of a pixel's value off, which is rounded here.
    assert np.abs(pictures[0].astype(int) - np.array(image)).max() <= 1


def test_digests_cover_the_files_that_are_read(name):
    digests = create(name).file_digests()
    own = {file.name for file in dict.fromkeys([RELEASES[name].transformer, RELEASES[name].autoencoder])}
    assert own < set(digests)
    assert ("clip_g/model.fp16.safetensors" in digests) == (name == "sd3.5-large")


def test_a_local_folder_gives_equal_results(name, files, tmp_path):
    cache.write_folder(tmp_path / "folder", files)
    assert create(name, weights_from=str(tmp_path / "folder")).file_digests() == create(name).file_digests()


def test_a_checkpoint_with_a_missing_tensor_is_rejected(name, files, tmp_path):
    tensors = load(files[RELEASES[name].transformer])
    tensors.pop(next(key for key in tensors if "blocks.3" in key and key.endswith("weight")))
    save_file(tensors, tmp_path / "mine.safetensors")
    with pytest.raises(
        UserError, match=r"is not the .*: it lacks \d of DiffusionKit's tensors \((multimodal|unified)_"
    ) as caught:
        create(name, weights_from=str(tmp_path / "mine.safetensors")).load_transformer()
    assert len(str(caught.value).splitlines()) == 2


def test_another_models_repository_is_rejected(name):
    with pytest.raises(UserError, match=f"set it to {RELEASES[name].repo}"):
        create(name, weights_from=CHECKPOINT_REPO)
    assert create(name, weights_from=RELEASES[name].repo).file_digests() == create(name).file_digests()


def test_every_released_model_can_be_named():
    assert set(MODELS) == set(plan.MODEL_BLOCKS) - {*plan.EMBEDDED}
    assert {model for model, release in RELEASES.items() if not release.guided} == plan.UNGUIDED
