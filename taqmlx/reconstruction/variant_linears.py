"""Linear layers of each variant: full precision, blocks, packed weights, or a quantization config."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.packed import bind_packed
from taqmlx.mmdit.sampling import LinearAt
from taqmlx.mmdit.transformer import Transformer, list_layers
from taqmlx.numerics.sigma_lookup import DEFAULT_LOOKUP
from taqmlx.reconstruction.block_linears import bind_blocks
from taqmlx.store.block_file import read_block
from taqmlx.store.packed_checkpoint import read_packed
from taqmlx.store.quant_config import read_quant_config


def bind_source(model: Transformer, source: str, files: Sequence[Path]) -> LinearAt:
    """Linear layers of `model` at each noise level, from a source's files; a config or a checkpoint is the first file.

    source: `none`, `blocks`, `weights`, `quant_config` or `multitier`. Raises UserError for missing or damaged files.
    """
    return BINDERS[source](model, files)


def bind_none(model: Transformer, files: Sequence[Path]) -> LinearAt:
    """Full-precision layers, the same at every noise level."""
    exact = bind_linears(model)
    return lambda sigma: exact


def bind_rung(model: Transformer, files: Sequence[Path]) -> LinearAt:
    """Layers from the block files of one rung of the ladder."""
    return bind_blocks(model, [read_block(path) for path in files]).at


def bind_weights(model: Transformer, files: Sequence[Path]) -> LinearAt:
    """Layers with packed weights and full-precision inputs."""
    layers = list_layers(model)
    return bind_packed(model, layers, layers, read_packed(files[0].parent), None, DEFAULT_LOOKUP).at


def bind_config(model: Transformer, files: Sequence[Path]) -> LinearAt:
    """Layers from a quantization config and the packed weights it names."""
    config = read_quant_config(files[0])
    layers = list_layers(model)
    return bind_packed(model, layers, layers, read_packed(config.weights.parent), config, DEFAULT_LOOKUP).at


BINDERS: dict[str, Callable[[Any, Sequence[Path]], LinearAt]] = {
    "none": bind_none,
    "blocks": bind_rung,
    "weights": bind_weights,
    "quant_config": bind_config,
    "multitier": bind_config,
}
