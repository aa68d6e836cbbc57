"""Recognition of model files in other layouts, with advice on which file to use instead."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from taqmlx.planning.plain_files import open_plain

PLAIN = "use the weights in fp16, bf16 or fp32"
SINGLE = "use the single file of the original layout"
SET_MODEL = "set model: {}, or use the file of this model"
OTHER = "use the file of the model in the configuration"
SNIFFED = 512  # bytes read from the beginning of a file


@dataclass(frozen=True)
class Layout:
    """A file type and its advice, matched if every regular expression in `patterns` is found.

    where: in the first bytes, in the tensor names, in the file name, or in the names of a folder's files. own:
    published files that match this layout themselves, so that it explains nothing about them.
    """

    where: str
    patterns: tuple[str, ...]
    name: str
    advice: str
    own: tuple[str, ...] = ()


def _bytes(pattern: str, name: str, advice: str) -> Layout:
    return Layout("bytes", (pattern,), name, advice)


def _tensors(patterns: str | tuple[str, ...], name: str, advice: str, *own: str) -> Layout:
    return Layout("tensors", (patterns,) if isinstance(patterns, str) else patterns, name, advice, own)


def _folder(pattern: str, name: str, advice: str) -> Layout:
    return Layout("folder", (pattern,), name, advice)


# The first match counts: weight encodings, then parts of models, then whole models, then encoders.
LAYOUTS = (
    _bytes(r"^GGUF", "a GGUF file of quantized weights", f"{PLAIN} as safetensors"),
    _bytes(r"^PK\x03\x04", "a PyTorch checkpoint or another zip archive", "use the safetensors file"),
    _bytes(r"(?s)^\x80[\x02-\x05]..(?!\x00{4})", "a pickle, which can run programs", "use the safetensors file"),
    _bytes(r"^version https://git-lfs", "a pointer of Git LFS to the file", "download the file itself"),
    _bytes(r"^\s*(?i:<!doctype html|<html)", "a web page", "download the file itself"),
    _tensors(
        r"(^|\.)(scaled_fp8|comfy_quant)$|\.(scale_weight|scale_input|weight_scale|input_scale|weight_scale_2)$",
        "a file of quantized weights with scales beside them (ComfyUI's fp8, and the like)",
        PLAIN,
    ),
    _tensors(r"\.(quant_map|SCB|weight_format)$|\.quant_state\.", "a file that bitsandbytes has quantized", PLAIN),
    _tensors(r"\.(qweight|qzeros|wscales|smooth_factor)$", "a file that GPTQ, AWQ or Nunchaku has quantized", PLAIN),
    _tensors(r"\.scales$", "a file that MLX has quantized (mflux, or DiffusionKit's 4-bit files)", PLAIN),
    _tensors(
        r"(^|[._])lora[_.]?(A|B|up|down|unet|te\d?|transformer)[._]|\.lokr_|\.hada_w",
        "a LoRA, which is not a whole model",
        "merge it into the model first, and name the merged file",
    ),
    _tensors(r"^(control_model|controlnet_\w+|control_net)\.|\.controlnet_", "a ControlNet", OTHER),
    _tensors(
        (r"^(transformer\.)?transformer_blocks\.\d+\.attn2\.", r"\.attn\.add_q_proj\."),
        "Stable Diffusion 3.5 Medium in the layout of diffusers",
        "DiffusionKit has no transformer of its shape; use Stable Diffusion 3 Medium or 3.5 Large",
    ),
    _tensors(
        r"joint_blocks\.\d+\.x_block\.attn2\.",
        "Stable Diffusion 3.5 Medium",
        "DiffusionKit has no transformer of its shape; use Stable Diffusion 3 Medium or 3.5 Large",
    ),
    _tensors(r"(^|\.)guidance_in\.", "FLUX.1-dev", "use FLUX.1-schnell, which needs no guidance"),
    _tensors(r"distilled_guidance_layer\.", "Chroma", "use FLUX.1-schnell"),
    _tensors(r"add_embedding\.|\.label_emb\.|^conditioner\.embedders\.", "Stable Diffusion XL", OTHER),
    _tensors(
        r"\.input_blocks\.\d|^input_blocks\.\d|^cond_stage_model\.|^(unet\.)?down_blocks\.\d+\.attentions\.",
        "a U-Net of Stable Diffusion 1 or 2",
        OTHER,
    ),
    _tensors(r"^(transformer\.)?(single_)?transformer_blocks\.\d", "a transformer in the layout of diffusers", SINGLE),
    _tensors(r"^(encoder|decoder)\.(down|up)_blocks\.\d", "an autoencoder in the layout of diffusers", SINGLE),
    _tensors(r"multimodal_transformer_blocks\.\d", "a transformer under DiffusionKit's own names", SINGLE),
    _tensors(r"joint_blocks\.37\.", "Stable Diffusion 3.5 Large", SET_MODEL.format("sd3.5-large"), "sd3.5_large"),
    _tensors(r"joint_blocks\.23\.", "Stable Diffusion 3 Medium", SET_MODEL.format("sd3-medium"), "sd3_medium"),
    _tensors(r"(^|\.)double_blocks\.\d", "FLUX.1-schnell", SET_MODEL.format("flux-schnell"), "flux-schnell"),
    _tensors(r"^(encoder\.block|shared)\.", "a T5 text encoder", OTHER, "t5xxl"),
    _tensors(r"^text_model\.", "a CLIP text encoder", OTHER, "model.fp16"),
    _tensors(r"transformer\.resblocks\.\d", "a CLIP text encoder in the layout of OpenCLIP", OTHER),
    _tensors(r"^(first_stage_model\.)?(decoder|encoder)\.\w+\.", "an autoencoder alone", OTHER, "ae"),
    Layout("name", (r"-\d{5}-of-\d{5}\.",), "one shard of a checkpoint", "name its index, *.safetensors.index.json"),
    _folder(r"^model_index\.json$", "a folder of diffusers", SINGLE),
    _folder(r"(^|/)diffusion_pytorch_model[^/]*\.safetensors", "a folder of diffusers", SINGLE),
    _folder(r"^transformer/\d+\.safetensors$", "a folder of mflux", SINGLE),
    _folder(r"\.gguf$", "a folder with GGUF files", f"{PLAIN} as safetensors"),
)


def recognise(where: str, texts: Iterable[str], own: str = "") -> Layout | None:
    """First layout whose patterns are all found in the texts; None if the published file `own` also matches it."""
    texts = list(texts)
    for layout in LAYOUTS:
        if layout.where == where and all(any(re.search(p, text) for text in texts) for p in layout.patterns):
            return None if Path(own).stem in layout.own else layout
    return None


def recognise_bytes(path: Path) -> Layout | None:
    """Recognise a file that is not safetensors by its first bytes, if it is readable."""
    try:
        with open_plain(path) as file:
            return recognise("bytes", [file.read(SNIFFED).decode("latin-1")])
    except OSError:
        return None


def recognise_tensors(names: Iterable[str], path: Path, own: str) -> Layout | None:
    """Recognise a safetensors file given for the published file `own` by its tensors, else by its name."""
    return recognise("tensors", names, own) or recognise("name", [path.name])


def describe_folder(folder: Path) -> str:
    """Describe a recognised folder, with advice; empty if it is not recognised."""
    names = [str(path.relative_to(folder)) for path in (*folder.glob("*"), *folder.glob("*/*"))]
    layout = recognise("folder", names)
    return f"{layout.name} ({layout.advice})" if layout else ""
