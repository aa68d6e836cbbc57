"""The trained torch modules and the shipped MLX classes of DiffusionKit compute the same."""

import mlx.core as mx
import numpy as np
import pytest
import torch

from taqmlx.models import classifier as mlx_classifier
from taqmlx.models import embedded
from taqmlx.training.autoencoder import Autoencoder, fold_latent_scale
from taqmlx.training.classifier import Classifier
from taqmlx.training.export import export_weights
from taqmlx.training.text import TextModel
from taqmlx.training.transformer import Transformer

TOLERANCE = 1e-4


def randomise(module: torch.nn.Module, scale: float = 0.05) -> torch.nn.Module:
    """Adds noise to every parameter, rounds them to fp16, and leaves the module ready for inference."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter)).copy_(parameter.half())
    return module.eval().requires_grad_(False)


def to_numpy(x: torch.Tensor) -> np.ndarray:
    """Channels first to channels last."""
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def test_the_text_model_is_exported(tmp_path):
    tokens = embedded.load_tokenizer().encode(["a small red circle left of a big blue square", "", "ü ü ü"])
    model = randomise(TextModel(len(embedded.load_tokenizer())))
    export_weights(model.state_dict(), tmp_path / "text_encoder.safetensors")
    output = embedded.load_text_encoder(tmp_path)(mx.array(tokens))
    cs, cs_pooled = model(torch.from_numpy(tokens).long())
    np.testing.assert_allclose(np.array(output.last_hidden_state), cs.numpy(), atol=TOLERANCE)
    np.testing.assert_allclose(np.array(output.pooled_output), cs_pooled.numpy(), atol=TOLERANCE)


def test_the_transformer_is_exported(tmp_path):
    model = randomise(Transformer())
    export_weights(model.state_dict(), tmp_path / "transformer.safetensors")
    latents, cs, cs_pooled = torch.randn(2, 16, 8, 8), torch.randn(2, 20, 128), torch.randn(2, 128)
    expected = model(latents, cs, cs_pooled, torch.full((2,), 700.0))
    twin, timestep = embedded.load_transformer(folder=tmp_path), mx.array([700.0])
    twin.cache_modulation_params(mx.array(cs_pooled.numpy()), timestep)
    output = twin(mx.array(to_numpy(latents)), mx.array(cs.numpy())[:, :, None], timestep)
    np.testing.assert_allclose(np.array(output), to_numpy(expected), atol=TOLERANCE)


def test_the_autoencoder_is_exported_with_the_latent_scale_folded_in(tmp_path):
    model = randomise(Autoencoder(), scale=0.01)
    model.latent_norm.running_mean.normal_()
    model.latent_norm.running_var.uniform_(0.5, 2.0)
    export_weights(fold_latent_scale(model, noise=0.1), tmp_path / "autoencoder.safetensors")
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    latents = model.encode(pictures)
    raw = embedded.load_encoder(tmp_path)(mx.array(to_numpy(pictures)))
    mean, log_variance = mx.split(raw, 2, axis=-1)
    scaled = (np.array(mean) - embedded.SD3_SHIFT) * embedded.SD3_SCALE
    np.testing.assert_allclose(scaled, to_numpy(latents), atol=1e-2)  # the folded weights are rounded to fp16 again
    np.testing.assert_allclose(np.exp(np.array(log_variance) / 2) * embedded.SD3_SCALE, 0.1, rtol=1e-2)
    expected = model.decoder(latents / embedded.SD3_SCALE + embedded.SD3_SHIFT)
    x = mx.array(to_numpy(latents)) / embedded.SD3_SCALE + embedded.SD3_SHIFT
    np.testing.assert_allclose(np.array(embedded.load_decoder(tmp_path)(x)), to_numpy(expected), atol=TOLERANCE)


def test_the_classifier_is_exported(tmp_path):
    model = randomise(Classifier())
    export_weights(model.state_dict(), tmp_path / "classifier.safetensors")
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    logits = mlx_classifier.load_classifier(tmp_path)(mx.array(to_numpy(pictures)))
    np.testing.assert_allclose(np.array(logits), model(pictures).numpy(), atol=TOLERANCE)


def test_weights_beyond_fp16_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="big is not finite"):
        export_weights({"big": torch.tensor([1e6])}, tmp_path / "x.safetensors")
