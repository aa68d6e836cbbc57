"""Report how hard the layer inputs are to quantize, from the activation statistics, in Markdown."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from taqmlx.numerics.ranges import measure_inputs
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.checksum_files import write_text
from taqmlx.store.statistics_file import read_statistics, read_statistics_arrays

HEADINGS = {
    "absmax_low": "smallest absmax",
    "absmax_high": "largest absmax",
    "drift": "drift",
    "crest": "absmax / std",
    "channel_spread": "channel spread",
    "min": "min",
    "max": "max",
    "negative_share": "negative share",
    "asymmetry": "asymmetry",
    "shift_gain": "gain of the shift",
}
ALL_INPUTS = ("absmax_low", "absmax_high", "drift", "crest", "channel_spread")
POST_GELU = ("min", "max", "negative_share", "asymmetry", "drift", "shift_gain")
WORDS = """\
Ranges are in the units of the activations, everything else is a ratio.

- *absmax* is the largest absolute value of the tensor at one step. *Drift* is the ratio of the largest to the smallest
  per-step absmax: the loss of one step size for all steps. A drift of 2 costs one bit at the step of smallest absmax.
- *absmax / std* at the worst step: 4 to 5 for a Gaussian. Twice that costs one bit of every value.
- *Channel spread* is the ratio of the widest channel's range to the median channel's: the loss of one step size for all
  channels.
- After GELU, *asymmetry* is |max + min| / (max - min): 0 for a centred tensor, 1 for a one-sided one, where a
  symmetric quantizer wastes up to half of its range. The *gain of the shift* is the ratio of the absmax without to that
  with the static per-channel shift.
"""


def main(arguments: argparse.Namespace) -> None:
    statistics = read_statistics(arguments.statistics)
    arrays = read_statistics_arrays(arguments.statistics, statistics)
    measured = measure_inputs(statistics["inputs"], arrays)
    text = format_report(statistics, measured)
    write_text(arguments.out, text)
    log.info(f"ranges of {len(measured)} inputs in {arguments.out}")


def format_report(statistics: Mapping[str, Any], measured: Mapping[str, Mapping[str, float]]) -> str:
    """The report as Markdown; the inputs that are hardest to quantize come first."""
    sigmas, rows = statistics["sigmas"], statistics["inputs"]
    points = max(max(described["rows"]) for described in rows.values())
    post_gelu = {name: values for name, values in measured.items() if "shift_gain" in values}
    parts = [
        f"# Activation ranges of {statistics['model']}",
        f"{len(measured)} linear inputs at {len(sigmas)} steps, sigma {max(sigmas):.3g} to {min(sigmas):.3g};"
        f" up to {points} tokens per input and step.",
        WORDS + "\n" + format_findings(measured, post_gelu),
        "## All inputs, the widest channel spread first",
        format_table(sort_inputs(measured, "channel_spread"), ALL_INPUTS),
    ]
    if post_gelu:
        parts += [
            "## After GELU, the largest drift first",
            format_table(sort_inputs(post_gelu, "drift"), POST_GELU),
        ]
    return "\n\n".join(parts) + "\n"


def format_findings(measured: Mapping[str, Mapping[str, float]], post_gelu: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table with one line per difficulty: its median and its worst input."""
    looked_at = {"drift": measured, "crest": measured, "channel_spread": measured}
    if post_gelu:
        looked_at |= {"asymmetry": post_gelu, "shift_gain": post_gelu}
    lines = ["| difficulty | median input | worst input | layer input |", "|---|---:|---:|---|"]
    for key, group in looked_at.items():
        ordered = sort_inputs(group, key)
        name, worst = next(iter(ordered.items()))
        median = [*ordered.values()][len(ordered) // 2][key]
        after = ", after GELU" if group is post_gelu else ""
        lines.append(f"| {HEADINGS[key]}{after} | {format_number(median)} | {format_number(worst[key])} | {name} |")
    return "\n".join(lines)


def sort_inputs(measured: Mapping[str, Mapping[str, float]], key: str) -> dict[str, Mapping[str, float]]:
    """The inputs sorted by `key`, largest first, then by name."""
    return dict(sorted(measured.items(), key=lambda item: (-item[1][key], item[0])))


def format_table(measured: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> str:
    """A Markdown table with one row per input."""
    lines = [
        "| input | " + " | ".join(HEADINGS[column] for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for name, values in measured.items():
        lines.append(f"| {name} | " + " | ".join(format_number(values[column]) for column in columns) + " |")
    return "\n".join(lines)


def format_number(value: float) -> str:
    """A number with three significant digits, without an exponent from 0.001 to 99999."""
    if value == 0 or 1e-3 <= abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value:.2e}"


if __name__ == "__main__":
    run(main, build_parser(__doc__, "statistics", "out"))
