"""Compare our results with `nn.quantize`: quality by bits per weight, and the bits saved, as JSON and Markdown."""

import argparse
from pathlib import Path

import numpy as np

from taqmlx.numerics.frontier import describe_quality, describe_saving
from taqmlx.planning import plan
from taqmlx.planning.evaluation_documents import Frontier, Interval, MeasuredWay, Quality, Way
from taqmlx.report.study_tables import sort_ways, tabulate_frontier
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.checksum_files import write_text
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.frontier_file import FORMAT, PICTURES, find_best, list_ours

NOTE = """\
Latent signal-to-noise ratio to full precision in dB, of {n} pictures of held-out captions ({steps} steps, guidance
{cfg:g}). Bits per weight count all linear layers, scales and zero points included. A picture below 5 dB usually shows
different content. Saved: the bits per weight that nn.quantize needs for the same quality, interpolated on its own
frontier, minus ours. Intervals are 95 %, from a bootstrap of the pictures. Quantized inputs are simulated.
"""


def main(arguments: argparse.Namespace) -> None:
    files = {path: read_json(path, **PICTURES) for path in [*arguments.plain, *arguments.learned]}
    first = files[arguments.plain[0]]
    for path, found in files.items():
        for key in ("parameters", "pictures", "model"):
            if difference := plan.describe_difference({key: found[key]}, {key: first[key]}):
                raise UserError(
                    f"{path} was made with other pictures ({difference}); delete it and run draw_frontier again"
                )
    plain = [way for path in arguments.plain for way in files[path]["ways"]]
    asked = zip(arguments.sizes, arguments.learned, strict=True)
    learned = [way | {"asked": size} for size, path in asked for way in files[path]["ways"]]
    seed = 0
    bits, ratios = np.array([way["bits_per_weight"] for way in plain]), np.array([way["ratios"] for way in plain])
    described = [describe_way(way, seed) for way in plain]
    for way in learned:
        own = np.array(way["ratios"])
        saved: dict[Quality, Interval] = {
            "median": describe_saving(way["bits_per_weight"], own, bits, ratios, False, seed),
            "p5": describe_saving(way["bits_per_weight"], own, bits, ratios, True, seed),
        }
        described.append({**describe_way(way, seed), "asked": way["asked"], "bits_saved": saved})
    content: Frontier = {
        "n": ratios.shape[1],
        "steps": first["parameters"]["evaluation_steps"],
        "cfg": first["parameters"]["evaluation_cfg"],
        "ways": described,
    }
    write_json(arguments.out, {**FORMAT, **content})
    text = format_table(content)
    write_text(arguments.out.with_suffix(".md"), text)
    log.info(f"{len(plain)} ways of nn.quantize, {len(learned)} of this project: {arguments.out}")


def describe_way(way: MeasuredWay, seed: int) -> Way:
    """Size and quality of a model, with intervals and the SNR of every picture."""
    quality = describe_quality(np.array(way["ratios"]), seed)
    return {
        "name": way["name"],
        "title": way["title"],
        "bits_per_weight": way["bits_per_weight"],
        "ratios": way["ratios"],
        "median": quality["median"],
        "p5": quality["p5"],
        "otherwise": quality["otherwise"],
    }


def format_table(content: Frontier) -> str:
    """A Markdown table of our models and of the `nn.quantize` models on the frontier of the median."""
    table = tabulate_frontier(sort_ways([*find_best(content), *list_ours(content)]))
    note = NOTE.format(n=content["n"], steps=content["steps"], cfg=content["cfg"])
    return f"{table}\n\n{note}"


if __name__ == "__main__":
    parser = build_parser(__doc__, "out")
    parser.add_argument("--plain", type=Path, nargs="+", required=True, help="draw_frontier files of nn.quantize")
    parser.add_argument("--learned", type=Path, nargs="+", required=True, help="draw_frontier files of our sizes")
    parser.add_argument(
        "--sizes", type=float, nargs="+", required=True, help="bits per weight of the --learned files, in order"
    )
    run(main, parser)
