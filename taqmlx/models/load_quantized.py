"""Load the quantized transformer of this folder into a DiffusionKit pipeline. Only mlx and diffusionkit are needed.

    from diffusionkit.mlx import DiffusionPipeline
    from load_quantized import load_quantized

    pipeline = DiffusionPipeline(shift=3.0, low_memory_mode=False)
    load_quantized(pipeline, ".")
    image, log = pipeline.generate_image("a red circle", cfg_weight=5.0, num_steps=28, latent_size=(64, 64))
    image.save("picture.png")

The pipeline must be that of the base model. Layer inputs stay in floating point. DiffusionKit's low-memory mode passes
an argument to MLX that MLX no longer has.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn

Tensors = list[tuple[str, mx.array]]


def load_quantized(pipeline: Any, folder: str | Path) -> None:
    """Quantize the transformer of a DiffusionKit pipeline and load the tensors in `folder` into it.

    DiffusionKit reads adaLN weights again after each picture, and in low-memory mode the whole transformer: from then
    on from `folder` too. Raises ValueError if the tensors are not those of the pipeline's transformer.
    """
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    if config["migrated"]:
        raise ValueError(f"{folder} has migrated weights, which need an operation that DiffusionKit lacks")
    how, load_base = config["quantization"], pipeline.load_mmdit

    def fill() -> None:
        nn.quantize(pipeline.mmdit, class_predicate=lambda path, module: how.get(path, False))
        pipeline.mmdit.load_weights(read_tensors(folder, config, pipeline.dtype))

    def load_mmdit(only_modulation_dict: bool = False) -> Tensors | None:
        if only_modulation_dict:
            return [pair for pair in read_tensors(folder, config, pipeline.dtype) if "adaLN" in pair[0]]
        load_base()
        fill()
        return None

    fill()
    pipeline.load_mmdit = load_mmdit


def read_tensors(folder: str | Path, config: dict[str, Any], dtype: mx.Dtype) -> Tensors:
    """The tensors of `folder` by module path; all but the codes (uint32) as `dtype`, as DiffusionKit reads its own."""
    tensors = mx.load(str(Path(folder) / config["model"]["file"]))
    named = ((key.removeprefix(config["prefix"]), value) for key, value in tensors.items())
    return [(key, value if value.dtype == mx.uint32 else value.astype(dtype)) for key, value in named]
