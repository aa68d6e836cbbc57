"""Effect of quantization on every layer: a table of weights and a table of layer inputs."""

import math
from collections.abc import Mapping

from taqmlx.numerics.quality import to_decibels
from taqmlx.planning.documents import Bits, BlockReport, Sensitivity, TierErrors
from taqmlx.planning.layer_rules import UNQUANTIZED
from taqmlx.planning.layers import STREAMS, Layer
from taqmlx.report.tables import (
    NOTHING,
    UNKNOWN,
    Cell,
    Column,
    Facts,
    Getter,
    Table,
    show_choice,
    show_count,
    show_decibels,
    show_magnitude,
    show_number,
    show_words,
    tabulate,
)
from taqmlx.store.quant_config import QuantConfig

PHASES = ("early", "mid", "late")


def describe_weights(
    layer: Layer,
    config: QuantConfig,
    sizes: Facts,
    sensitivity: Mapping[str, Sensitivity],
    reports: Mapping[str, BlockReport],
    suggested: Facts,
    mixed: Mapping[str, Bits],
) -> Facts:
    """Facts about a layer's weight; ratios are signal over error in dB.

    `layer` is an entry of the registry; `sensitivity` and `reports` are by block; `suggested` and `mixed` by layer.
    """
    weight, size = config.layers[layer.name]["weight"], sizes[layer.name]
    measured = sensitivity[layer.block]["weights"].get(layer.name) if layer.block in sensitivity else None
    errors = measured["errors"] if measured else {}
    own = errors.get(str(weight["bits"]))
    learned = reports[layer.block]["layers"].get(layer.name) if layer.block in reports else None
    return {
        "name": layer.name,
        "stream": layer.stream,
        "role": layer.role,
        "bits": weight["bits"],
        "group": weight["group_size"],
        "bytes": size["bytes"],
        "bits_per_weight": 8 * size["bytes"] / size["weights"],
        "moved": learned["moved_from_nearest"] if learned else None,
        "at_4": find_ratio(errors.get("4")),
        "own": find_ratio(own),
        "velocity": to_decibels(1, own["velocity"]) if own else None,
        "suggested": suggested.get(layer.name, {}).get("weight_bits"),
        "mixed": mixed.get(layer.name),
    }


def find_ratio(errors: Facts | None) -> float | None:
    """dB of the error in the stream with the largest error; `errors` are relative squared errors by stream."""
    found = [errors[stream] for stream in STREAMS if errors.get(stream) is not None] if errors else []
    return to_decibels(1, max(found)) if found else None


def describe_input(
    layer: Layer, config: QuantConfig, ranges: Facts, sensitivity: Mapping[str, Sensitivity], suggested: Facts
) -> Facts:
    """Facts about a layer input and its quantization."""
    activation, steps = config.layers[layer.name]["activation"], config.find_input(layer.name).steps
    readers = sensitivity[layer.block]["inputs"].values() if layer.block in sensitivity else []
    tiers: dict[str, TierErrors] = next((found["tiers"] for found in readers if layer.name in found["layers"]), {})
    return {
        "name": layer.name,
        "stream": layer.stream,
        "role": layer.role,
        "bits": activation["bits"],
        "policy": activation["policy"],
        "step_low": None if steps is None else float(steps.min()),
        "step_high": None if steps is None else float(steps.max()),
        "shift": bool(activation.get("shift")),
        "ranges": ranges.get(layer.input, {}),
        "at": {bits: to_decibels(1, max(tier["errors"])) for bits, tier in tiers.items()},
        "phases": (suggested.get(layer.name) or suggested.get(layer.input or "") or {}).get("phases"),
    }


def show_bits(bits: int | list[int]) -> Cell:
    """Bit width, or the smallest and largest of a table by noise level."""
    widths = [bits] if isinstance(bits, int) else bits
    low, high = min(widths), max(widths)
    return Cell(f"{low}\u2013{high}" if low < high else str(low), sum(widths) / len(widths))


def show_phases(phases: dict[str, int | None] | None) -> Cell:
    """Bits of each phase, in sampling order; sorts by their mean. A phase without a noise level has none."""
    ordered = [phases[name] for name in PHASES] if phases else []
    known = [bits for bits in ordered if bits is not None]
    if not known or set(known) == {UNQUANTIZED}:
        return NOTHING
    return Cell(" / ".join(UNKNOWN if bits is None else str(bits) for bits in ordered), sum(known) / len(known))


def _ranged(key: str) -> Getter:
    return lambda fact: show_magnitude(fact["ranges"].get(key))


NAMES: tuple[tuple[Column, Getter], ...] = (
    (Column("Layer", is_number=False), lambda fact: show_words(fact["name"])),
    (Column("Stream", is_number=False), lambda fact: show_words(fact["stream"])),
    (Column("Role", is_number=False), lambda fact: show_words(fact["role"])),
)
SNR = "block output SNR with only this layer quantized (RTN), in the worse stream, in dB"
WEIGHTS: tuple[tuple[Column, Getter], ...] = (
    *NAMES,
    (Column("Bits", meaning="of a code; 16 is not quantized"), lambda fact: show_bits(fact["bits"])),
    (
        Column("Group", meaning="weights that share a scale and a zero point"),
        lambda fact: show_count(fact["group"]) if isinstance(fact["group"], int) else NOTHING,
    ),
    (
        Column("Bits per weight", meaning="as stored, with scales and zero points"),
        lambda fact: show_number(fact["bits_per_weight"]),
    ),
    (Column("KB", meaning="thousands of bytes, as stored"), lambda fact: show_number(fact["bytes"] / 1000, 1)),
    (
        Column("Moved, %", meaning="codes that differ from RTN"),
        lambda fact: show_number(None if fact["moved"] is None else 100 * fact["moved"], 1),
    ),
    (Column("4 bits, dB", meaning=SNR, worst="low"), lambda fact: show_decibels(fact["at_4"])),
    (Column("Own bits, dB", meaning="the same at its own bits", worst="low"), lambda f: show_decibels(f["own"])),
    (
        Column("Velocity, dB", meaning="the same for the model's velocity", worst="low"),
        lambda fact: show_decibels(fact["velocity"]),
    ),
    (
        Column("Suggested", meaning="smallest number of bits with an error within weight_budget"),
        lambda fact: show_count(fact["suggested"]),
    ),
    (
        Column("Mixed", meaning="bits and group size chosen by the search under bits_per_weight"),
        lambda fact: show_choice(fact["mixed"]),
    ),
)
READ_SNR = "block output SNR with only this input quantized, at the worst noise level, in dB"
INPUTS: tuple[tuple[Column, Getter], ...] = (
    *NAMES,
    (Column("Bits", meaning="of a value; 16 is unquantized"), lambda fact: show_bits(fact["bits"])),
    (
        Column(
            "Policy",
            is_number=False,
            meaning="lut: step size per noise level; static: one step size; dynamic: per token; affine: per token, with"
            " a zero point; shift: centred first",
        ),
        lambda fact: show_words(fact["policy"] + (" + shift" if fact["shift"] else "")),
    ),
    (Column("Smallest step size", meaning="over noise levels"), lambda fact: show_magnitude(fact["step_low"])),
    (Column("Largest step size", meaning="over noise levels"), lambda fact: show_magnitude(fact["step_high"])),
    (Column("Smallest absmax", meaning="over steps"), _ranged("absmax_low")),
    (Column("Largest absmax", meaning="over steps"), _ranged("absmax_high")),
    (Column("Drift", meaning="ratio of the largest to the smallest per-step absmax", worst="high"), _ranged("drift")),
    (
        Column("Spread", meaning="ratio of the largest channel range to the median one", worst="high"),
        _ranged("channel_spread"),
    ),
    (Column("4 bits, dB", meaning=READ_SNR, worst="low"), lambda fact: show_decibels(fact["at"].get("4"))),
    (Column("8 bits, dB", meaning="the same", worst="low"), lambda fact: show_decibels(fact["at"].get("8"))),
    (
        Column("Tiers", meaning="the bits suggested for the early, middle and late noise levels"),
        lambda fact: show_phases(fact["phases"]),
    ),
)


def tabulate_weights(facts: list[Facts]) -> Table:
    """Table with one row per layer weight."""
    return tabulate("weights", "The weights of every layer", WEIGHTS, facts, "layers")


def tabulate_inputs(facts: list[Facts]) -> Table:
    """Table with one row per layer input."""
    return tabulate("inputs", "The inputs of every layer", INPUTS, facts, "layers")


def find_worst(facts: list[Facts], key: str) -> Facts | None:
    """Entry with the lowest finite ratio; None if no ratio is finite."""
    known = [fact for fact in facts if fact.get(key) is not None and math.isfinite(fact[key])]
    return min(known, key=lambda fact: fact[key], default=None)
