"""Error of each block's output by rounding method."""

from collections.abc import Mapping

from taqmlx.numerics.quality import to_decibels
from taqmlx.planning.documents import BlockReport, Sensitivity
from taqmlx.report.tables import Column, Facts, Getter, Table, show_decibels, show_magnitude, show_words, tabulate
from taqmlx.store.block_report import ENGINES, INPUTS


def describe_blocks(reports: Mapping[str, BlockReport], sensitivity: Mapping[str, Sensitivity]) -> list[Facts]:
    """One entry per block and stream: ratios in dB by (engine, inputs), `now` for the chosen engine, and the gain."""
    facts = []
    for block, report in reports.items():
        for stream in report["errors"][report["chosen"]]["quantized_inputs"]:
            ratios = {
                (engine, inputs): to_decibels(1, errors[inputs][stream])
                for engine, errors in report["errors"].items()
                for inputs in INPUTS
            }
            facts.append(
                {
                    "name": f"{block} {stream}",
                    "chosen": ENGINES.get(report["chosen"], report["chosen"]),
                    "ratios": ratios,
                    "now": ratios[report["chosen"], "quantized_inputs"],
                    "gain": sensitivity[block]["gains"].get(stream) if block in sensitivity else None,
                }
            )
    return facts


def tabulate_blocks(facts: list[Facts]) -> Table:
    """Table with one row per block and stream."""
    found = {engine for fact in facts for engine, _ in fact["ratios"]}
    columns: list[tuple[Column, Getter]] = [
        (Column("Block, stream", is_number=False), lambda fact: show_words(fact["name"])),
        *(
            (Column(f"{title}, {words}", meaning="", worst="low"), _get_ratio(engine, inputs))
            for engine, title in ENGINES.items()
            if engine in found
            for inputs, words in INPUTS.items()
        ),
        (Column("Chosen", is_number=False, meaning="method of the final weights"), lambda f: show_words(f["chosen"])),
        (
            Column("Gain", meaning="relative error of the model's velocity per relative error here", worst="high"),
            lambda fact: show_magnitude(fact["gain"]),
        ),
    ]
    caption = "Block output SNR, dB, on held-out calibration points"
    return tabulate("blocks", caption, columns, facts, "rows")


def _get_ratio(engine: str, inputs: str) -> Getter:
    return lambda fact: show_decibels(fact["ratios"].get((engine, inputs)))
