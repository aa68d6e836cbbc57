"""Stable Diffusion 3 Medium in miniature agrees with DiffusionKit's own pipeline."""

import re
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.mmdit.sampling import sample
from taqmlx.models.diffusionkit import load_pipeline_module
from taqmlx.models.sd3 import MODELS
from taqmlx.models.weight_files import CHECKPOINT, CHECKPOINT_REPO
from taqmlx.numerics import elementwise, schedule
from taqmlx.planning.folds import FOLDED_ROLES
from tests.support.random_folds import fold_randomly
from tools.miniature import cache

PROMPTS, NEGATIVE = ["a red circle on the table", "a photo of a tabby cat 2"], "blue square"
HEIGHT, WIDTH, STEPS, CFG_WEIGHT, SEED = 64, 96, 2, 4.0, 5
# The Euler steps add up the rounding of 24 blocks in another order: measured 3e-6 in fp32, 4e-3 in half.
TOLERANCE = {mx.float32: 2e-5, mx.float16: 1e-2}


def create(weights_from=CHECKPOINT_REPO, use_t5=True, dtype=mx.float32):
    return MODELS["sd3-medium"](str(weights_from), use_t5, HEIGHT, WIDTH, dtype)


def create_pipeline(use_t5=True, half=False):
    pipeline = load_pipeline_module().DiffusionPipeline
    return pipeline(shift=3.0, use_t5=use_t5, low_memory_mode=False, w16=half, a16=half)


def draw(model, cs, cs_pooled):
    """Final latents (n, 8, 12, 16) of the first seeds."""
    transformer = model.load_transformer()
    linear = bind_linears(transformer)
    noise = schedule.draw_noise(range(SEED, SEED + len(cs)), *model.LATENT_SHAPE)
    sigmas = model.compute_sigmas(STEPS)
    return sample(transformer, lambda sigma: linear, cs, cs_pooled, noise, sigmas, CFG_WEIGHT)


def measure_error(found, wanted):
    found, wanted = found.astype(mx.float32), wanted.astype(mx.float32)
    return (mx.linalg.norm((found - wanted).flatten()) / mx.linalg.norm(wanted.flatten())).item()


@pytest.mark.parametrize("use_t5", [True, False])
def test_prompts_are_encoded_as_by_the_pipeline(miniature, use_t5):
    cs, cs_pooled = create(use_t5=use_t5).encode_prompts(PROMPTS, NEGATIVE)
    assert cs.shape == (2, 2, 589 if use_t5 else 154, 4096)
    assert cs_pooled.shape == (2, 2, 64)
    assert {cs.dtype, cs_pooled.dtype} == {mx.float32}
    pipeline = create_pipeline(use_t5)
    for found, found_pooled, prompt in zip(cs, cs_pooled, PROMPTS, strict=True):
        wanted, wanted_pooled = pipeline.encode_text(prompt, CFG_WEIGHT, NEGATIVE)
        assert measure_error(found, wanted) <= 1e-6
        assert measure_error(found_pooled, wanted_pooled) <= 1e-6


@pytest.mark.parametrize("use_t5", [True, False])
def test_truncated_text_is_counted_by_encoder(miniature, caplog, use_t5):
    model = create(use_t5=use_t5)
    long = ["red " * count for count in (75, 76, 510, 720)]  # besides start and end, or T5's end alone
    found = model.describe_dropped(["a red circle", *long])
    clip, *t5 = found
    assert clip == "beyond the 77 tokens of CLIP in 3 of 5 prompts (up to 722)"
    assert bool(t5) == use_t5
    if use_t5:
        assert re.match(r"beyond the 512 tokens of T5 in [12] of 5 prompts \(up to \d+\)$", t5[0])
    assert model.describe_dropped(PROMPTS[:1]) == []  # the miniature T5 knows no digits
    model.encode_prompts(long[-1:])
    assert "Truncating" not in caplog.text  # DiffusionKit's own line, one for each encoder and prompt


def test_characters_unknown_to_t5_are_counted(miniature):
    assert create().describe_dropped(["a red circle", "a ~ circle"]) == [
        "characters that T5 does not know in 1 of 2 prompts"
    ]


def test_every_part_of_an_encoding_depends_on_its_prompt(miniature):
    cs, cs_pooled = create().encode_prompts(PROMPTS, NEGATIVE)
    for part in (cs[..., :77, :24], cs[..., :77, 24:64], cs[..., 77:, :], cs_pooled[..., :24], cs_pooled[..., 24:]):
        assert measure_error(part[0, 0], part[1, 0]) > 0.05
        assert measure_error(part[0, 0], part[0, 1]) > 0.05
        assert measure_error(part[0, 1], part[1, 1]) == 0


def predict(transformer):
    """Velocities (2, 8, 12, 16) of two rows, by our forward and by DiffusionKit's."""
    keys, width = mx.random.split(mx.random.key(0), 3), transformer.config.pooled_text_embed_dim
    latents, pooled = mx.random.normal((2, 8, 12, 16), key=keys[0]), mx.random.normal((2, width), key=keys[1])
    context, timesteps = mx.random.normal((2, 20, 4096), key=keys[2]), mx.array([613.0, 613.0])
    found = predict_velocity(transformer, bind_linears(transformer), latents, context, pooled, timesteps, mx.arange(2))
    transformer.cache_modulation_params(pooled, timesteps[:1])
    return found, transformer(latents, context[:, :, None], timesteps)


def test_one_forward_equals_that_of_diffusionkit(miniature):
    found, wanted = predict(create().load_transformer())
    assert measure_error(found, wanted) <= TOLERANCE[mx.float32]


@pytest.mark.parametrize("kind", FOLDED_ROLES)
def test_folded_weights_have_the_same_velocity_in_both_forwards(miniature, kind):
    expected, folded = predict(create().load_transformer())[0], create().load_transformer()
    fold_randomly(folded, kind)
    for velocity in predict(folded):
        assert measure_error(velocity, expected) <= 1e-5


def test_a_picture_equals_that_of_the_pipeline(miniature, monkeypatch):
    model, pipeline = create(), create_pipeline()
    kept = keep_latents(pipeline, monkeypatch)
    image, _ = pipeline.generate_image(
        PROMPTS[0], STEPS, CFG_WEIGHT, NEGATIVE, model.LATENT_SHAPE[:2], SEED, verbose=False
    )
    latents = draw(model, *model.encode_prompts(PROMPTS, NEGATIVE))
    assert measure_error(latents[:1], pipeline.latent_format.process_in(kept[0])) <= TOLERANCE[mx.float32]
    pictures = model.decode_latents(model.load_decoder(), latents)
    assert pictures.shape == (2, HEIGHT, WIDTH, 3)
    assert np.ptp(pictures[0]) > 50
    # DiffusionKit cuts the fraction of a pixel's value off, which is rounded here.
    assert np.abs(pictures[0].astype(int) - np.array(image)).max() <= 1


def keep_latents(pipeline, monkeypatch):
    """The latents that `generate_image` decodes, step by step."""
    kept, denoise = [], pipeline.denoise_latents

    def denoise_and_keep(*arguments, **options):
        result = denoise(*arguments, **options)
        kept.append(result[0])
        return result

    monkeypatch.setattr(pipeline, "denoise_latents", denoise_and_keep)
    return kept


@pytest.mark.parametrize("half", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_without_t5_latents_equal_those_of_the_pipeline(miniature, monkeypatch, half):
    dtype = mx.float16 if half else mx.float32
    if half:  # the polynomials of a CPU are for fp32
        monkeypatch.setitem(elementwise.KERNELS, mx.cpu, elementwise.KERNELS[mx.gpu])
    model, pipeline = create(use_t5=False, dtype=dtype), create_pipeline(use_t5=False, half=half)
    cs, cs_pooled = model.encode_prompts(PROMPTS, NEGATIVE)
    found = draw(model, cs, cs_pooled)
    assert found.dtype == mx.float32
    wanted, _ = pipeline.denoise_latents(
        *(part.astype(dtype) for part in pipeline.encode_text(PROMPTS[0], CFG_WEIGHT, NEGATIVE)),
        STEPS,
        CFG_WEIGHT,
        model.LATENT_SHAPE[:2],
        SEED,
    )
    assert measure_error(found[:1], pipeline.latent_format.process_in(wanted)) <= TOLERANCE[dtype]


def test_every_weight_has_the_model_dtype(miniature):
    for dtype in (mx.float32, mx.float16):
        model = create(dtype=dtype)
        for module in (model.load_transformer(), model.load_decoder()):
            assert {value.dtype for _, value in tree_flatten(module.parameters())} == {dtype}


def test_a_local_folder_and_a_local_file_give_equal_results(miniature, miniature_files, tmp_path):
    cache.write_folder(tmp_path / "folder", miniature_files)
    shutil.copy(tmp_path / "folder" / CHECKPOINT.name, tmp_path / "mine.safetensors")
    from_hub = create()
    weights = dict(tree_flatten(from_hub.load_transformer().parameters()))
    cs, _ = from_hub.encode_prompts(PROMPTS[:1])
    for place in (tmp_path / "folder", tmp_path / "mine.safetensors"):
        model = create(place)
        assert model.file_digests() == from_hub.file_digests()
        assert mx.array_equal(model.encode_prompts(PROMPTS[:1])[0], cs)
        for name, value in tree_flatten(model.load_transformer().parameters()):
            assert mx.array_equal(value, weights[name]), name


def test_a_folder_needs_no_hub(miniature, miniature_files, tmp_path):
    cache.write_folder(tmp_path / "folder", miniature_files)
    shutil.rmtree(miniature)
    create(tmp_path / "folder").encode_prompts(PROMPTS)


def test_digests_are_of_the_bytes_and_of_used_files_only(miniature):
    with_t5, without = create().file_digests(), create(use_t5=False).file_digests()
    assert {name for name in with_t5 if name not in without} == {
        "t5/t5xxl.safetensors",
        *(f"t5-v1_1-xxl/{name}" for name in ("config.json", "spiece.model", "tokenizer_config.json")),
    }
    assert all(len(digest) == 64 for digest in with_t5.values())
    assert without.items() <= with_t5.items()
