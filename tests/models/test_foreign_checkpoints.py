"""Checkpoints with other layouts and models are rejected by name, with what to take instead."""

import mlx.core as mx
import pytest
import torch
from mlx.utils import tree_flatten
from safetensors.torch import load, save

from taqmlx.models.releases import RELEASES
from taqmlx.models.sd3 import MODELS, fetch_files
from taqmlx.models.weight_files import CHECKPOINT, CHECKPOINT_REPO, WeightFile
from tests.models.test_checkpoints import fetch, refuse
from tests.models.test_sd3 import create
from tools.miniature import cache, forms


def add_attention(content):
    """A second attention in the image stream and norms, as Stable Diffusion 3.5 Medium has."""
    own = {name: value for name, value in load(content).items() if "x_block.attn." in name}
    return save(load(content) | {name.replace("attn.", "attn2."): value.clone() for name, value in own.items()})


def rename(content, *pairs):
    tensors = load(content)
    for old, new in pairs:
        tensors = {name.replace(old, new): value for name, value in tensors.items()}
    return save(tensors)


def rename_as_diffusers(content):
    return rename(
        content, ("model.diffusion_model.joint_blocks.", "transformer_blocks."), ("x_block.attn.qkv", "attn.to_q")
    )


FOREIGN = {
    "Stable Diffusion 3.5 Medium; DiffusionKit has no": add_attention,
    "a transformer in the layout of diffusers; use the single": rename_as_diffusers,
    "a file that MLX has quantized": lambda content: save(
        load(content) | {"model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.scales": torch.ones(4)}
    ),
    "a LoRA, which is not a whole model; merge it": lambda content: save(
        {"lora_unet_joint_blocks_0_x_block_mlp_fc1.lora_down.weight": torch.ones(4, 4)}
    ),
    "a GGUF file of quantized weights": lambda content: b"GGUF\x03\0\0\0" + bytes(100),
    "a PyTorch checkpoint": lambda content: b"PK\x03\x04" + bytes(100),
    "a pickle": lambda content: b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(50),
    "is a web page": lambda content: b"<!doctype html><html><body>404</body></html>",
    "is a pointer of Git LFS": lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n",
}


@pytest.mark.parametrize("said", FOREIGN)
def test_another_layout_is_named_with_what_to_take(miniature, miniature_files, tmp_path, said):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(FOREIGN[said](miniature_files[CHECKPOINT]))
    for action in (lambda: fetch(path), lambda: create(path).load_transformer()):
        line, command = refuse(action)
        assert line.startswith(f"{path} is ")
        assert said in line
        assert (
            command.strip() == f"hf download {CHECKPOINT_REPO} {CHECKPOINT.name}  # and weights_from: {CHECKPOINT_REPO}"
        )


def test_an_unknown_layout_is_rejected_with_its_faults(miniature, miniature_files, tmp_path):
    path = tmp_path / "mine.safetensors"
    tensors, stray = load(miniature_files[CHECKPOINT]), "model.diffusion_model.stray"
    path.write_bytes(save(tensors | {f"{stray}.{n}": torch.ones(1) for n in range(5)}))
    assert f"has 5 surplus ones ({stray}.0, {stray}.1, {stray}.2 and 2 more); get it:" in refuse(lambda: fetch(path))[0]
    path.write_bytes(save({name: value for name, value in tensors.items() if "decoder" not in name}))
    assert "it has no tensors first_stage_model.decoder.*" in refuse(lambda: fetch(path))[0]
    path.write_bytes(save({name: value for name, value in tensors.items() if "x_embedder" not in name}))
    assert "it lacks x_embedder.proj.weight" in refuse(lambda: fetch(path))[0]
    path.write_bytes(save(tensors | {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.alpha": torch.tensor(1.0)}))
    assert "DiffusionKit cannot parse it: [split]" in refuse(lambda: fetch(path))[0]


def test_a_folder_of_diffusers_is_rejected_by_name(miniature, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model_index.json").write_text("{}")
    line, _ = refuse(lambda: fetch(tmp_path / "folder"))
    assert "is a folder of diffusers (use the single file of the original layout); it lacks sd3_medium" in line


@pytest.mark.parametrize("name", ["sd3.5-large", "flux-schnell"])
def test_checkpoints_of_other_models_are_rejected_by_name(name, tmp_path, monkeypatch):
    """Their files in all types; FLUX.1-dev and files of each other are named; FLUX in a larger file is read."""
    release = RELEASES[name]
    files = cache.make_files(repo=release.repo)
    cache.install(tmp_path / "hub", files, monkeypatch)
    content, path = files[release.transformer], tmp_path / "mine.safetensors"

    def load_weights(weights_from):
        model = MODELS[name](weights_from, True, 64, 64)
        return dict(tree_flatten(model.load_transformer().parameters()))

    wanted = load_weights(None)
    for dtype in (torch.float16, torch.float32):
        path.write_bytes(forms.convert(content, dtype))
        fetch_files(name, str(path), True)
        assert all(mx.array_equal(value, wanted[key]) for key, value in load_weights(str(path)).items())
    path.write_bytes(forms.convert(content, torch.float8_e4m3fn))
    assert "as F8_E4M3" in refuse(lambda: fetch_files(name, str(path), True))[0]
    if name == "flux-schnell":
        prefixed = {f"model.diffusion_model.{key}": value for key, value in load(content).items()}
        path.write_bytes(save(prefixed | {"text_encoders.clip_l.transformer.x": torch.ones(1)}))
        assert all(mx.array_equal(value, wanted[key]) for key, value in load_weights(str(path)).items())
        path.write_bytes(save(load(content) | {"guidance_in.in_layer.weight": torch.ones(1)}))
        assert "is FLUX.1-dev; use FLUX.1-schnell" in refuse(lambda: load_weights(str(path)))[0]
        ae = WeightFile(release.repo, "ae.safetensors")
        cache.install(tmp_path / "fp8", files | {ae: forms.convert(files[ae], torch.float8_e4m3fn)}, monkeypatch)
        assert "ae.safetensors" in refuse(lambda: fetch_files(name, release.repo, True))[0]
