"""In mflux's environment: load a transformer by mflux's own loader, and run it.

    PYTHONPATH=tools/mflux/startup .venv-mflux/bin/python tools/mflux/run_transformer.py MODEL INPUTS OUTPUTS PRECISION

MODEL: folder with `transformer/`. INPUTS: safetensors with `latents` (1, 16, H / 8, W / 8), `context` (1, T, 4096) and
`pooled` (1, P), and metadata `steps`. OUTPUTS: safetensors with, of each step, the velocity (1, 16, H / 8, W / 8), the
conditioning (1, D) and the timestep (1,), and metadata `layers`: bits and group size by module path, null where not
quantized. PRECISION: float32 or bfloat16, what is computed in.
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mflux.models.common.config import Config, ModelConfig
from mflux.models.common.weights.loading.weight_applier import WeightApplier
from mflux.models.common.weights.loading.weight_loader import WeightLoader
from mflux.models.flux.latent_creator.flux_latent_creator import FluxLatentCreator
from mflux.models.flux.model.flux_transformer.transformer import Transformer
from mflux.models.flux.weights.flux_weight_definition import FluxWeightDefinition

PIXELS = 8  # picture pixels per latent pixel, along each axis


def load(folder):
    """The transformer as `FluxInitializer` makes it, without the text encoders and the autoencoder."""
    component = next(part for part in FluxWeightDefinition.get_components() if part.name == "transformer")
    weights = WeightLoader.load_single_local(component=component, root_path=Path(folder))
    transformer = Transformer(
        model_config=ModelConfig.schnell(),
        num_transformer_blocks=weights.num_transformer_blocks(),
        num_single_transformer_blocks=weights.num_single_transformer_blocks(),
    )
    WeightApplier.apply_and_quantize(
        weights=weights,
        models={"transformer": transformer},
        quantize_arg=None,
        weight_definition=FluxWeightDefinition,
    )
    return transformer


def describe_layers(transformer):
    """Bits and group size of each linear layer by its path; null for one that is not quantized."""
    found = {}
    for path, module in transformer.named_modules():
        if isinstance(module, nn.QuantizedLinear):
            found[path] = [module.bits, module.group_size]
        elif isinstance(module, nn.Linear):
            found[path] = None
    return found


def run(transformer, arrays, steps):
    """What the transformer gives at each step of mflux's schedule, by name."""
    height, width = (PIXELS * side for side in arrays["latents"].shape[2:])
    config = Config(
        model_config=ModelConfig.schnell(), num_inference_steps=steps, height=height, width=width, guidance=0.0
    )
    found = {}
    for step in range(steps):
        velocity = transformer(
            t=step,
            config=config,
            hidden_states=FluxLatentCreator.pack_latents(arrays["latents"], height, width),
            prompt_embeds=arrays["context"],
            pooled_prompt_embeds=arrays["pooled"],
        )
        found[f"velocity.{step}"] = FluxLatentCreator.unpack_latents(velocity, height, width)
        found[f"conditioning.{step}"] = Transformer.compute_text_embeddings(
            step, arrays["pooled"], transformer.time_text_embed, config
        )
        timestep = config.scheduler.sigmas[step] * config.num_train_steps
        found[f"timestep.{step}"] = timestep.astype(config.precision).reshape(1)
    return found


def main(folder, inputs, outputs, precision):
    arrays, metadata = mx.load(inputs, return_metadata=True)
    dtype = getattr(mx, precision)
    transformer = load(folder)
    layers = describe_layers(transformer)
    transformer.set_dtype(dtype)
    found = run(transformer, {name: array.astype(dtype) for name, array in arrays.items()}, int(metadata["steps"]))
    found = {name: array.astype(mx.float32) for name, array in found.items()}
    mx.save_safetensors(outputs, found, {"layers": json.dumps(layers)})


if __name__ == "__main__":
    main(*sys.argv[1:])
