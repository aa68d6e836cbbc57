"""Registry of the linear layers of an MMDiT by name, shared by all stages.

Names are short and stable (`mm_00.image.attn.q_proj`); paths are those of DiffusionKit's module tree.
"""

from collections.abc import Iterator
from dataclasses import dataclass

BLOCK_KINDS = MULTIMODAL_BLOCK, UNIFIED_BLOCK = ("mm", "uni")
AFTER_GELU = "fc2"  # role of the layers that read the output of a GELU
# Linears of one stream of a block: (suffix of name and path, role), in forward order.
ATTENTION = (("attn.q_proj", "qkv"), ("attn.k_proj", "qkv"), ("attn.v_proj", "qkv"))
AFTER_ATTENTION = (("attn.o_proj", "o"), ("mlp.fc1", "fc1"), ("mlp.fc2", AFTER_GELU))
EMBEDDERS = (
    "context_embedder",
    "y_embedder.mlp.layers.0",
    "y_embedder.mlp.layers.2",
    "t_embedder.mlp.layers.0",
    "t_embedder.mlp.layers.2",
)
MODULATION_INPUT = "modulation"
UNIFIED = "unified"  # stream name of blocks with the same weights for all tokens
STREAMS = ("image", "text", UNIFIED)
# Roles that share the attention input of a stream; in a unified block also fc1, since its MLP runs in parallel.
READS_QKV = {"image": ("qkv",), "text": ("qkv",), UNIFIED: ("qkv", "fc1")}


@dataclass(frozen=True)
class Layer:
    """One linear layer.

    name: `mm_00.image.mlp.fc1`; path: its module in DiffusionKit's tree; block: `mm_00`, `uni_00` or empty;
    stream: image, text, unified or shared; role: qkv, o, fc1, fc2, adaLN, embedder or final;
    input: name of the layer input. q, k and v share one (with fc1 in a unified block), and so do all adaLN linears.
    """

    name: str
    path: str
    block: str
    stream: str
    role: str
    input: str


@dataclass(frozen=True)
class Stream:
    """One stream of one block: image or text of a multimodal block, or the only stream of a unified block."""

    block: str
    name: str
    path: str
    reaches_output: bool  # false for the text stream of the last multimodal block: no o_proj, no MLP


def name_block(kind: str, index: int) -> str:
    """Name of a block of one of BLOCK_KINDS: `mm_00`, `uni_00`."""
    return f"{kind}_{index:02d}"


def list_streams(depth_multimodal: int, depth_unified: int = 0) -> list[Stream]:
    """The streams of every block, in forward order."""
    streams = []
    for index in range(depth_multimodal):
        is_last = index == depth_multimodal - 1 and depth_unified == 0
        path = f"multimodal_transformer_blocks.{index}"
        block = name_block(MULTIMODAL_BLOCK, index)
        streams.append(Stream(block, "image", f"{path}.image_transformer_block", True))
        streams.append(Stream(block, "text", f"{path}.text_transformer_block", not is_last))
    for index in range(depth_unified):
        path = f"unified_transformer_blocks.{index}.transformer_block"
        streams.append(Stream(name_block(UNIFIED_BLOCK, index), UNIFIED, path, True))
    return streams


def list_stream_linears(stream: Stream) -> Iterator[Layer]:
    """Yield the quantizable linears of one stream."""
    prefix = f"{stream.block}.{stream.name}"
    for suffix, role in ATTENTION + (AFTER_ATTENTION if stream.reaches_output else ()):
        name = f"{prefix}.{suffix}"
        read = f"{prefix}.attn.qkv" if role in READS_QKV[stream.name] else name
        yield Layer(name, f"{stream.path}.{suffix}", stream.block, stream.name, role, read)


def list_block_linears(depth_multimodal: int, depth_unified: int = 0) -> list[Layer]:
    """Quantizable linears of every block: 12 per multimodal block, 9 for the last one, 6 per unified block.

    Stable Diffusion 3 Medium (24, 0) has 285, 3.5 Large (38, 0) has 453 and FLUX.1-schnell (19, 38) has 456.
    """
    return [layer for stream in list_streams(depth_multimodal, depth_unified) for layer in list_stream_linears(stream)]


def list_linears(depth_multimodal: int, depth_unified: int = 0) -> list[Layer]:
    """All linears of the model: embedders, blocks with their adaLN, and the final layer."""
    layers = [Layer(path, path, "", "shared", "embedder", path) for path in EMBEDDERS]
    for stream in list_streams(depth_multimodal, depth_unified):
        layers.append(create_modulation_layer(f"{stream.block}.{stream.name}", stream.path, stream.block, stream.name))
        layers.extend(list_stream_linears(stream))
    layers.append(create_modulation_layer("final_layer", "final_layer", "", "shared"))
    layers.append(Layer("final_layer.linear", "final_layer.linear", "", "shared", "final", "final_layer.linear"))
    return layers


def create_modulation_layer(prefix: str, path: str, block: str, stream: str) -> Layer:
    """The adaLN linear of a stream or of the final layer. All share one input, the SiLU output, computed once."""
    name = f"{prefix}.adaLN_modulation"
    return Layer(name, f"{path}.adaLN_modulation.layers.1", block, stream, "adaLN", MODULATION_INPUT)


def reads_gelu(name: str) -> bool:
    """True if the layer `name`, or the layer input `name`, reads the output of a GELU."""
    return any(name.endswith(f".{suffix}") for suffix, role in AFTER_ATTENTION if role == AFTER_GELU)
