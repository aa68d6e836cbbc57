"""Compare the images and block outputs of all rungs of the ladder with full precision, as JSON and Markdown."""

import argparse
from pathlib import Path

import numpy as np

from taqmlx.numerics.quality import bound_median, measure_snr, to_decibels
from taqmlx.planning import ladder
from taqmlx.planning.documents import BlockReport
from taqmlx.planning.evaluation_documents import Gain, Rung
from taqmlx.report.study_tables import tabulate_ladder
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.block_report import read_report
from taqmlx.store.checksum_files import write_text
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.tensors import read_sealed_tensors

FORMAT = {"format": "weights-ladder", "version": 1}
EXACT = 150.0  # dB; cap for equal values: no unequal fp32 values reach it, and JSON has no infinity
EXPLANATION = """\
Signal-to-noise ratios in dB against full precision, from the same seeds and prompts: of the final latents (median over
pictures, and the worst picture), and of the block outputs on held-out points (mean over blocks and streams, and the
worst). A gain is the median of the differences to the rung named after it, picture by picture, with a 95 % interval
from a bootstrap of the pictures. One decibel more is a fifth less error energy. The worst picture often has an
ambiguous prompt and shows different content.
"""


def main(arguments: argparse.Namespace) -> None:
    reference = read_latents(arguments.ladder, ladder.FULL_PRECISION)
    rungs = [
        describe_rung(name, title, read_latents(arguments.ladder, name), reference, arguments.ladder / name)
        for name, (title, _) in ladder.RUNGS.items()
        if name != ladder.FULL_PRECISION
    ]
    for name, title in ((ladder.OWN, ladder.OWN_TITLE), (ladder.PACKED, ladder.PACKED_TITLE)):
        latents = read_latents(arguments.ladder, name)
        rungs.append(describe_rung(name, title, latents, reference, arguments.adaround))
    for rung in rungs:
        if gain := measure_gain(rung, rungs):
            rung["gain"] = gain
    write_json(arguments.out, FORMAT | {"pictures": len(reference), "rungs": rungs})
    write_text(arguments.out.with_suffix(".md"), format_table(rungs))
    log.info(f"{len(rungs)} rungs in {arguments.out}")


def read_latents(folder: Path, rung: str) -> np.ndarray:
    """The final latents (n, h, w, c) of a rung. Raises UserError if they are missing, damaged or of another rung."""
    path = folder / rung / "latents.safetensors"
    arrays, about = read_sealed_tensors(path)
    if about["rung"] != rung:
        raise UserError(f"{path} belongs to the rung {about['rung']}; delete it and run sample_rung again")
    return arrays["latents"]


def describe_rung(name: str, title: str, latents: np.ndarray, reference: np.ndarray, blocks: Path) -> Rung:
    """Results of one rung: `latent_snr` of each picture and `block_snr` of each block's streams, in dB."""
    pictures = [min(measure_snr(*pair), EXACT) for pair in zip(latents, reference, strict=True)]
    reports = {report["block"]: report for report in map(read_report, sorted(blocks.glob("*.report.json")))}
    streams = {block: measure_block(report) for block, report in reports.items()}
    values = [value for block in streams.values() for value in block.values()]
    return {
        "rung": name,
        "title": title.strip(),
        "latent_snr": {"typical": float(np.median(pictures)), "worst": min(pictures), "pictures": pictures},
        "block_snr": {"typical": float(np.mean(values)), "worst": min(values), "blocks": streams},
        "chosen": {block: report["chosen"] for block, report in reports.items()},
    }


def measure_gain(rung: Rung, rungs: list[Rung]) -> Gain | None:
    """Gain of a rung over its base, if it has one, with a 95 % interval by a bootstrap of the pictures."""
    base = ladder.BASES.get(rung["rung"])
    if base is None:
        return None
    other = next(own["latent_snr"]["pictures"] for own in rungs if own["rung"] == base)
    value, ends = bound_median(np.subtract(rung["latent_snr"]["pictures"], other))
    return {"base": base, "value": value, "interval_95": ends}


def measure_block(report: BlockReport) -> dict[str, float]:
    """Signal-to-noise ratio in dB of each stream of a block, for the chosen candidate with quantized inputs."""
    errors = report["errors"][report["chosen"]]["quantized_inputs"]
    return {stream: min(to_decibels(1, error), EXACT) for stream, error in errors.items()}


def format_table(rungs: list[Rung]) -> str:
    """The Markdown report: a table of the rungs, and its explanation."""
    titles = {name: title for name, (title, _) in ladder.RUNGS.items()}
    table = tabulate_ladder({**rung, "title": titles.get(rung["rung"], rung["title"])} for rung in rungs)
    return f"# Contribution of each part of the method\n\n{EXPLANATION}\n{table}\n"


if __name__ == "__main__":
    parser = build_parser(__doc__, "ladder", "adaround", "out")
    run(main, parser)
