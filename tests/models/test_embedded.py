"""The shipped files are a working text-to-image model."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.models import embedded
from taqmlx.numerics.quality import measure_psnr
from taqmlx.store.errors import UserError
from taqmlx.training.pool import draw_example

LIMIT = 20 * 2**20  # bytes, of all files of the model
ODD_PROMPTS = ["", "a red circle", "ünïcode 红色", "word " * 200, "a small zebra left of a large sofa"]


def test_the_files_are_small_and_in_fp16():
    files = list(embedded.FOLDER.iterdir())
    assert sum(file.stat().st_size for file in files) <= LIMIT
    for file in embedded.FOLDER.glob("*.safetensors"):
        assert {value.dtype for value in mx.load(str(file)).values()} == {mx.float16}


def test_the_transformer_has_the_special_cases_of_stable_diffusion_3():
    blocks = embedded.load_transformer().multimodal_transformer_blocks
    last = blocks[-1].text_transformer_block
    assert last.skip_post_sdpa
    assert "mlp" not in last
    assert last.num_modulation_params == 2
    assert all("bias" not in block.image_transformer_block.attn.k_proj for block in blocks)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_encoding_does_not_depend_on_the_batch(monkeypatch, batch):
    whole = embedded.encode_prompts(ODD_PROMPTS, "a blue square")
    monkeypatch.setattr(embedded, "ENCODE_BATCH", batch)
    for found, wanted in zip(embedded.encode_prompts(ODD_PROMPTS, "a blue square"), whole, strict=True):
        np.testing.assert_allclose(np.array(found), np.array(wanted), atol=1e-5)


def test_any_sentence_is_encoded_as_positive_then_negative():
    cs, cs_pooled = embedded.encode_prompts(ODD_PROMPTS, "a blue square")
    assert cs.shape == (5, 2, 20, 128)
    assert cs_pooled.shape == (5, 2, 128)
    assert cs.dtype == cs_pooled.dtype == mx.float32
    assert all(np.isfinite(np.array(values)).all() for values in (cs, cs_pooled))
    negative, _ = embedded.encode_prompts(["a blue square"], "")
    np.testing.assert_allclose(np.array(cs[:, 1]), np.array(negative[:, 0]).repeat(5, axis=0), atol=1e-5)


def test_the_default_negative_prompt_is_empty():
    cs, cs_pooled = embedded.encode_prompts([""])
    assert mx.allclose(cs[:, 0], cs[:, 1], atol=1e-5)
    assert mx.allclose(cs_pooled[:, 0], cs_pooled[:, 1], atol=1e-5)


def test_the_autoencoder_restores_pictures_from_latents_of_unit_scale():
    pictures = np.stack([draw_example(11, index)[1] for index in range(32)])
    latents = embedded.encode_pictures(embedded.load_encoder(), pictures)
    assert latents.shape == (32, *embedded.LATENT_SHAPE)
    assert abs(float(latents.mean())) < 0.1
    assert abs(float(mx.std(latents)) - 1) < 0.1
    assert measure_psnr(embedded.decode_latents(embedded.load_decoder(), latents), pictures) > 34


def test_decoding_does_not_depend_on_the_batch():
    latents = mx.random.normal((embedded.DECODE_BATCH + 3, *embedded.LATENT_SHAPE), key=mx.random.key(0))
    decoder = embedded.load_decoder()
    last = embedded.decode_latents(decoder, latents[-1:])
    together = embedded.decode_latents(decoder, latents)
    assert together.dtype == np.uint8
    assert together.shape == (len(latents), 64, 64, 3)
    assert np.abs(together[-1:].astype(int) - last).max() <= 1


def test_digests_cover_the_files_that_pictures_depend_on():
    digests = embedded.file_digests()
    assert set(digests) == set(embedded.WEIGHT_FILES)
    assert all(len(digest) == 64 for digest in digests.values())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"transformer\.safetensors is missing"):
        embedded.load_transformer(folder=tmp_path)


@pytest.mark.parametrize("dtype", [mx.uint8, mx.int32])
def test_weights_that_need_decoding_are_rejected(tmp_path, dtype):
    weights = mx.load(str(embedded.FOLDER / "transformer.safetensors"))
    weights["x_embedder.proj.bias"] = weights["x_embedder.proj.bias"].astype(dtype)
    mx.save_safetensors(str(tmp_path / "transformer.safetensors"), weights)
    with pytest.raises(UserError, match=r"x_embedder\.proj\.bias is stored as (U8|I32), and F16, BF16, F32 are read"):
        embedded.load_transformer(folder=tmp_path)
