"""Layout of a FLUX.1 transformer saved by mflux: its modules, and the modules of DiffusionKit that each one comes from.

Names and sizes are those of mflux 0.24.0 (https://github.com/filipstrand/mflux), whose loader ignores missing and
unknown names. Standard library only.
"""

from collections.abc import Mapping
from typing import NamedTuple

from taqmlx.planning.layers import list_linears

MFLUX = "mflux"  # the value of the configuration key `layout`
MFLUX_MODEL, MFLUX_DTYPE = "flux-schnell", "bfloat16"  # the model of ours that mflux has, and its `scale_dtype`
MFLUX_VERSION = "0.24.0"  # whose layout this is; written into the files, which older versions read too
SHARD_BYTES = 2 << 30  # largest size of a file, as mflux saves it
TRANSFORMER, INDEX = "transformer", "model.safetensors.index.json"

# Widths of a transformer: `width` D, `head` of a head, `context` and `pooled` of the text, `frequencies` of a timestep,
# `patch` of the latents of an image token.
Widths = Mapping[str, int]
# A number of channels: a multiple of D, or another width.
Channels = int | str


class Module(NamedTuple):
    """A module of mflux's transformer.

    path: its own; sources: paths in DiffusionKit's tree, joined along the inputs if there are two; outputs and inputs:
    channels, where a norm has no inputs; is_swapped: True if the halves of the outputs, shift and scale, are swapped.
    """

    path: str
    sources: tuple[str, ...]
    outputs: Channels
    inputs: Channels | None
    is_swapped: bool = False

    def shape(self, widths: Widths) -> tuple[int, ...]:
        """Shape of the unquantized weight: (out, in), or (out,) of a norm."""
        sizes = [self.outputs] if self.inputs is None else [self.outputs, self.inputs]
        return tuple(widths[size] if isinstance(size, str) else size * widths["width"] for size in sizes)


# Modules of a stream of a multimodal block: mflux's names for image and text, DiffusionKit's, and multiples of D.
_STREAM = (
    ("norm1.linear", "norm1_context.linear", "adaLN_modulation.layers.1", 6, 1),
    ("attn.to_q", "attn.add_q_proj", "attn.q_proj", 1, 1),
    ("attn.to_k", "attn.add_k_proj", "attn.k_proj", 1, 1),
    ("attn.to_v", "attn.add_v_proj", "attn.v_proj", 1, 1),
    ("attn.to_out.0", "attn.to_add_out", "attn.o_proj", 1, 1),
    ("ff.linear1", "ff_context.linear1", "mlp.fc1", 4, 1),
    ("ff.linear2", "ff_context.linear2", "mlp.fc2", 1, 4),
    ("attn.norm_q", "attn.norm_added_q", "qk_norm.q_norm", "head", None),
    ("attn.norm_k", "attn.norm_added_k", "qk_norm.k_norm", "head", None),
)
_UNIFIED = (
    ("norm.linear", ("adaLN_modulation.layers.1",), 3, 1),
    ("attn.to_q", ("attn.q_proj",), 1, 1),
    ("attn.to_k", ("attn.k_proj",), 1, 1),
    ("attn.to_v", ("attn.v_proj",), 1, 1),
    ("proj_mlp", ("mlp.fc1",), 4, 1),
    ("proj_out", ("attn.o_proj", "mlp.fc2"), 1, 5),
    ("attn.norm_q", ("qk_norm.q_norm",), "head", None),
    ("attn.norm_k", ("qk_norm.k_norm",), "head", None),
)
_OUTER = (
    Module("x_embedder", ("x_embedder.proj",), 1, "patch"),
    Module("context_embedder", ("context_embedder",), 1, "context"),
    Module("time_text_embed.timestep_embedder.linear_1", ("t_embedder.mlp.layers.0",), 1, "frequencies"),
    Module("time_text_embed.timestep_embedder.linear_2", ("t_embedder.mlp.layers.2",), 1, 1),
    Module("time_text_embed.text_embedder.linear_1", ("y_embedder.mlp.layers.0",), 1, "pooled"),
    Module("time_text_embed.text_embedder.linear_2", ("y_embedder.mlp.layers.2",), 1, 1),
    Module("norm_out.linear", ("final_layer.adaLN_modulation.layers.1",), 2, 1, is_swapped=True),
    Module("proj_out", ("final_layer.linear",), "patch", 1),
)


def list_modules(depth_multimodal: int, depth_unified: int) -> list[Module]:
    """All modules with parameters: linear layers, each with a bias, and norms of queries and keys."""
    modules = list(_OUTER)
    for index in range(depth_multimodal):
        block, source = f"transformer_blocks.{index}", f"multimodal_transformer_blocks.{index}"
        for image, text, suffix, outputs, inputs in _STREAM:
            for name, stream in ((image, "image"), (text, "text")):
                path = f"{source}.{stream}_transformer_block.{suffix}"
                modules.append(Module(f"{block}.{name}", (path,), outputs, inputs))
    for index in range(depth_unified):
        block, source = f"single_transformer_blocks.{index}", f"unified_transformer_blocks.{index}.transformer_block"
        for name, suffixes, outputs, inputs in _UNIFIED:
            paths = tuple(f"{source}.{suffix}" for suffix in suffixes)
            modules.append(Module(f"{block}.{name}", paths, outputs, inputs))
    return modules


def list_joined(depth_multimodal: int, depth_unified: int) -> list[tuple[str, ...]]:
    """Names of our layers that are one layer in mflux, module by module."""
    names = {layer.path: layer.name for layer in list_linears(depth_multimodal, depth_unified)}
    modules = list_modules(depth_multimodal, depth_unified)
    return [tuple(names[path] for path in module.sources) for module in modules if len(module.sources) > 1]
