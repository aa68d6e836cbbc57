"""Files of other programs are recognised by their bytes, tensors, names and folders."""

import pytest

from taqmlx.models.layouts import LAYOUTS, describe_folder, recognise, recognise_bytes

BLOCK = "model.diffusion_model.joint_blocks"
# What is said of a file with these first bytes, these tensors, this name, or of a folder with these files.
EXAMPLES = {
    "bytes": {
        "GGUF": ["GGUF\x03\x00\x00\x00"],
        "PyTorch checkpoint": ["PK\x03\x04\x00\x00"],
        "pickle": ["\x80\x02\x8a\nl\xfc\x9cF\xf9 "],
        "Git LFS": ["version https://git-lfs.github.com/spec/v1\noid sha256:"],
        "web page": ["\n<!DOCTYPE html><html>"],
    },
    "tensors": {
        "quantized weights with scales": [f"{BLOCK}.0.x_block.attn.qkv.scale_weight", f"{BLOCK}.37.x"],
        "bitsandbytes": ["double_blocks.0.img_attn.qkv.weight.quant_state.bitsandbytes__nf4"],
        "Nunchaku": ["transformer_blocks.0.attn.to_q.qweight"],
        "MLX": ["transformer_blocks.0.attn.to_q.scales", "transformer_blocks.0.attn.to_q.weight"],
        "LoRA": ["transformer.transformer_blocks.0.attn.to_k.lora_A.weight"],
        "ControlNet": ["controlnet_blocks.0.weight", "transformer_blocks.0.attn.to_k.weight"],
        "3.5 Medium in the layout of diffusers": [
            "transformer_blocks.0.attn2.to_q.weight",
            "transformer_blocks.0.attn.add_q_proj.weight",
        ],
        "Stable Diffusion 3.5 Medium": [f"{BLOCK}.23.x", f"{BLOCK}.0.x_block.attn2.qkv.weight"],
        "FLUX.1-dev": ["double_blocks.0.img_attn.qkv.weight", "guidance_in.in_layer.weight"],
        "Chroma": ["double_blocks.0.img_attn.qkv.weight", "distilled_guidance_layer.in_proj.weight"],
        "XL": ["conditioner.embedders.0.transformer.text_model.x", "model.diffusion_model.input_blocks.0.0.weight"],
        "U-Net": ["model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.transformer.text_model.x"],
        "a transformer in the layout of diffusers": ["transformer_blocks.0.attn.to_q.weight"],
        "an autoencoder in the layout of diffusers": ["decoder.up_blocks.0.resnets.0.conv1.weight"],
        "DiffusionKit's own names": ["multimodal_transformer_blocks.0.image_transformer_block.attn.q_proj.weight"],
        "Stable Diffusion 3.5 Large": [f"{BLOCK}.23.x", f"{BLOCK}.37.x"],
        "Stable Diffusion 3 Medium": [f"{BLOCK}.22.x", f"{BLOCK}.23.x"],
        "FLUX.1-schnell": ["double_blocks.0.img_attn.qkv.weight"],
        "T5": ["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"],
        "a CLIP text encoder": ["text_model.embeddings.token_embedding.weight"],
        "OpenCLIP": ["transformer.resblocks.0.attn.in_proj_weight"],
        "an autoencoder alone": ["decoder.up.0.block.0.conv1.weight"],
    },
    "name": {"one shard": ["diffusion_pytorch_model-00001-of-00002.safetensors"]},
    "folder": {
        "a folder of diffusers": ["model_index.json", "transformer/diffusion_pytorch_model.safetensors"],
        "of diffusers": ["config.json", "diffusion_pytorch_model-00001-of-00002.safetensors"],
        "mflux": ["transformer/0.safetensors"],
        "GGUF": ["sd3-q4_0.gguf"],
    },
}
OTHERS = (
    ("LoRA", ["lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"]),
    ("LoRA", ["lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha"]),
    ("LoRA", ["unet.down_blocks.0.attentions.0.processor.to_k_lora.down.weight"]),
    ("quantized weights with scales", ["scaled_fp8", "shared.weight"]),
    ("quantized weights with scales", ["double_blocks.0.img_attn.qkv.comfy_quant"]),
    ("FLUX.1-dev", ["model.diffusion_model.guidance_in.in_layer.weight"]),
    ("XL", ["down_blocks.0.resnets.0.conv1.weight", "add_embedding.linear_1.weight"]),
    ("U-Net", ["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"]),
)
ROWS = [(where, said, names) for where, rows in EXAMPLES.items() for said, names in rows.items()]


@pytest.mark.parametrize(("where", "said", "names"), ROWS, ids=lambda value: value if isinstance(value, str) else "")
def test_each_layout_is_recognised(where, said, names):
    assert said in recognise(where, names).name


@pytest.mark.parametrize(("said", "names"), OTHERS)
def test_a_layout_is_recognised_in_its_other_forms(said, names):
    assert said in recognise("tensors", names).name


def test_every_layout_has_an_example():
    assert {recognise(where, names) for where, _, names in ROWS} == set(LAYOUTS)


def test_a_layout_like_the_published_file_is_no_explanation():
    names = [f"{BLOCK}.23.x", f"{BLOCK}.37.x"]
    assert recognise("tensors", names, "sd3.5_large.safetensors") is None
    assert recognise("tensors", names, "sd3_medium.safetensors").name == "Stable Diffusion 3.5 Large"
    assert recognise("tensors", ["text_model.x"], "clip_g/model.fp16.safetensors") is None


def test_a_safetensors_header_is_not_taken_for_a_pickle(tmp_path):
    (tmp_path / "x.safetensors").write_bytes((0x10280).to_bytes(8, "little") + b'{"__meta')
    assert recognise_bytes(tmp_path / "x.safetensors") is None
    assert recognise_bytes(tmp_path / "missing") is None


def test_a_folder_is_described(tmp_path):
    assert describe_folder(tmp_path) == ""
    (tmp_path / "model_index.json").touch()
    assert describe_folder(tmp_path) == "a folder of diffusers (use the single file of the original layout)"
