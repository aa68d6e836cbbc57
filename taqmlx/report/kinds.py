"""Quantized and unquantized layers, by kind."""

from collections.abc import Iterable, Sequence
from typing import Any

from taqmlx.planning.checkpoint_documents import LayerEntry
from taqmlx.planning.layer_rules import UNQUANTIZED
from taqmlx.report.checkpoint import measure_convolutions, measure_layers
from taqmlx.report.tables import NOTHING, Body, Cell, Column, Facts, Table, show_count, show_number
from taqmlx.store.packed_checkpoint import read_packed_config
from taqmlx.store.quant_config import QuantConfig

KINDS = {
    "embedder": "Embedders of text, pooled text and timestep",
    "adaLN": "adaLN modulation",
    "qkv": "Query, key and value",
    "o": "Attention output",
    "fc1": "MLP, fc1",
    "fc2": "MLP, fc2",
    "final": "Final layer",
}
CONVOLUTION, PRODUCTS = "Patch embedding, a convolution", "Attention products, of queries by keys and by values"
COLUMNS = (
    Column("Kind", is_number=False),
    Column("Layers"),
    Column("Weight bits, mean", meaning="of a code, over the weights of the kind"),
    Column("Least to most", meaning="bits of a code; 16 is not quantized"),
    Column("Bits per weight", meaning="as stored, with scales and zero points"),
    Column("Input bits", is_number=False, meaning="of a layer input"),
    Column("Share, %", meaning="of the weights of all layers here"),
)


def tabulate_kinds(layers: Iterable[Any], config: QuantConfig) -> Table:
    """Table with one row per kind of the registry's `layers`, with sizes from the packed weights, then unquantized
    parts.

    Raises UserError if the packed weights cannot be read.
    """
    prefix = read_packed_config(config.weights.parent)["prefix"]
    sizes = measure_layers(config.weights, prefix, config.layers)
    facts = [describe_layer(layer.role, config.layers[layer.name], sizes[layer.name]) for layer in layers]
    kept = [
        {"role": CONVOLUTION, "bits": UNQUANTIZED, "inputs": [UNQUANTIZED]} | size
        for size in measure_convolutions(config.weights)
    ]
    total = sum(fact["weights"] for fact in (*facts, *kept))
    groups = {title: [fact for fact in facts if fact["role"] == role] for role, title in KINDS.items()}
    rows = [show_kind(title, group, total) for title, group in groups.items() if group]
    rows.append(show_kind("All linear layers", facts, total))
    products = [Cell(PRODUCTS), *[NOTHING] * 4, show_inputs([UNQUANTIZED]), NOTHING]
    others = [*([show_kind(CONVOLUTION, kept, total)] if kept else []), products]
    bodies = [Body(rows, "Linear layers"), Body(others, "In full precision")]
    return Table("kinds", "Quantization by kind of layer", COLUMNS, bodies)


def describe_layer(role: str, layer: LayerEntry, size: Facts) -> Facts:
    """Kind, code bits, input bits, number of weights, and bytes of one layer."""
    inputs = layer["activation"]["bits"]
    return {
        "role": role,
        "bits": layer["weight"]["bits"],
        "inputs": [inputs] if isinstance(inputs, int) else inputs,
    } | size


def show_kind(title: str, facts: Sequence[Facts], total: int) -> list[Cell]:
    """Row for the layers of one kind; `total` is the number of all weights."""
    weights = sum(fact["weights"] for fact in facts)
    widths = [fact["bits"] for fact in facts]
    low, high = min(widths), max(widths)
    return [
        Cell(title),
        show_count(len(facts)),
        show_number(sum(fact["bits"] * fact["weights"] for fact in facts) / weights),
        Cell(str(low) if low == high else f"{low}\u2013{high}"),
        show_number(8 * sum(fact["bytes"] for fact in facts) / weights),
        show_inputs([bits for fact in facts for bits in fact["inputs"]]),
        show_number(100 * weights / total, 1),
    ]


def show_inputs(widths: Iterable[int]) -> Cell:
    """Distinct bit widths of inputs."""
    return Cell(", ".join("unquantized" if bits == UNQUANTIZED else str(bits) for bits in sorted(set(widths))))
