"""Write the report: one self-contained HTML page with the results and quality of the quantized model."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

from taqmlx.numerics.ranges import measure_inputs
from taqmlx.planning.checkpoint_documents import QuantConfigDocument
from taqmlx.planning.documents import BlockReport, MixedBits, Sensitivity
from taqmlx.planning.fold_rules import list_site_rules
from taqmlx.planning.plan import list_layers
from taqmlx.report import (
    blocks,
    checkpoint,
    distillation,
    folds,
    frontier,
    kinds,
    layers,
    overview,
    runs,
    suggestions,
    trouble,
)
from taqmlx.report.figures import embed_plots
from taqmlx.report.page import render_page
from taqmlx.report.tables import Facts, Table
from taqmlx.runtime.entry import add_folds, build_parser, log, run
from taqmlx.store.block_report import read_model_report, read_report
from taqmlx.store.checksum_files import write_text
from taqmlx.store.files import read_json
from taqmlx.store.folds_file import read_folds
from taqmlx.store.frontier_file import read_frontier
from taqmlx.store.mixed_bits import read_mixed_bits
from taqmlx.store.packed_checkpoint import read_packed_config
from taqmlx.store.quant_config import QuantConfig, read_content, read_quant_config
from taqmlx.store.sensitivity_file import read_sensitivity
from taqmlx.store.statistics_file import read_statistics, read_statistics_arrays


def main(arguments: argparse.Namespace) -> None:
    config, fid = runs.read_config(arguments.config), read_json(arguments.fid, format="evaluation", version=2)
    quantization = read_quant_config(arguments.quant_config)
    sensitivity = {content["block"]: content for content in map(read_sensitivity, arguments.sensitivity)}
    reports = {path.name.partition(".")[0]: read_report(path) for path in arguments.reports}
    multitier = read_content(arguments.multitier)
    analysis = multitier["analysis"]
    mixed = read_mixed_bits(arguments.mixed)
    distilled = read_model_report(arguments.distilled) if arguments.distilled else None
    benchmarks = runs.read_benchmarks(arguments.benchmarks)
    described = describe_layers(arguments, quantization, sensitivity, reports, analysis, mixed)
    described["blocks"] = blocks.describe_blocks(reports, sensitivity)
    content = (
        summarise(config, fid, quantization.content, described)
        | suggestions.describe_suggestions(analysis, mixed)
        | list_facts(config, quantization.content, multitier, fid, benchmarks)
        | {
            "frontier": frontier.tabulate_frontier(read_frontier(arguments.frontier), config["bits_per_weight"]),
            "kinds": kinds.tabulate_kinds(list_layers(quantization.content["model"]), quantization),
            "folds": describe_folds(arguments.folds, config),
            "distillation": distillation.describe_distillation(distilled, benchmarks),
            "figures": embed_plots(arguments.plots),
            "infinity": math.inf,
        }
    )
    text = render_page(content)
    write_text(arguments.out, text)
    log.info(f"{len(described['weights'])} layers, {len(arguments.plots)} plots in {arguments.out}")


def describe_layers(
    arguments: argparse.Namespace,
    quantization: QuantConfig,
    sensitivity: Mapping[str, Sensitivity],
    reports: Mapping[str, BlockReport],
    analysis: Facts,
    mixed: MixedBits,
) -> dict[str, list[Facts]]:
    """Facts about every layer of the quantized model: `weights` and `inputs`."""
    statistics = read_statistics(arguments.statistics)
    ranges = measure_inputs(statistics["inputs"], read_statistics_arrays(arguments.statistics, statistics))
    prefix = read_packed_config(quantization.weights.parent)["prefix"]
    sizes = checkpoint.measure_layers(quantization.weights, prefix, quantization.layers)
    suggested, bits = analysis["layers"], mixed["mixed"]["layers"]
    known = list_layers(quantization.content["model"])
    # Layers in blocks first: the others are few and rarely quantized.
    found = sorted((layer for layer in known if layer.name in quantization.layers), key=lambda layer: not layer.block)
    return {
        "weights": [
            layers.describe_weights(layer, quantization, sizes, sensitivity, reports, suggested, bits)
            for layer in found
        ],
        "inputs": [layers.describe_input(layer, quantization, ranges, sensitivity, suggested) for layer in found],
    }


def describe_folds(path: Path | None, config: Facts) -> Table | None:
    """Table of the folds in the file `path`; None if the configuration has none."""
    if path is None:
        return None
    return folds.tabulate_folds(read_folds(path).folds, list_site_rules(config["model"], config["activations"]))


def summarise(config: Facts, fid: Facts, quantization: QuantConfigDocument, described: dict[str, list[Facts]]) -> Facts:
    """The summary, and the tables by layer and by block."""
    order = overview.order_variants(fid, config["evaluation_variants"])
    subject = overview.choose_subject(order)
    return {
        "model": config["model"],
        "subject": subject and overview.name_short(fid["variants"][subject]),
        "caution": overview.describe_realization(fid, quantization["realization"]),
        "reading": overview.read_result(fid, subject),
        "tiles": overview.list_tiles(fid, subject),
        "quality": overview.tabulate_quality(fid, order, subject),
        "sizes": overview.tabulate_sizes(fid, order),
        "sources": overview.describe_sources(fid),
        "troubles": trouble.list_troubles(fid, subject, **described),
        "weights": layers.tabulate_weights(described["weights"]),
        "inputs": layers.tabulate_inputs(described["inputs"]),
        "blocks": blocks.tabulate_blocks(described["blocks"]),
    }


def list_facts(
    config: Facts,
    quantization: QuantConfigDocument,
    multitier: QuantConfigDocument,
    fid: Facts,
    benchmarks: runs.Benchmarks,
) -> Facts:
    """Stage timings, versions, configuration and digests."""
    values = runs.list_configuration(config)
    digests = runs.list_digests(quantization, multitier, fid)
    return {
        "stages": runs.tabulate_benchmarks(benchmarks),
        "versions": runs.list_versions(),
        "configuration": runs.tabulate_pairs("configuration", "The configuration", values, ("Key", "Value")),
        "digests": runs.tabulate_pairs("digests", "Digests", digests, ("Of", "Digest")),
    }


def build_arguments() -> argparse.ArgumentParser:
    """The command-line parser."""
    paths = ("fid", "frontier", "quant-config", "multitier", "mixed", "statistics", "benchmarks", "out")
    parser = add_folds(build_parser(__doc__, *paths))
    parser.add_argument("--distilled", type=Path, help="distillation report, if the model was distilled")
    parser.add_argument("--config", required=True, help="configuration as JSON")
    for name, words in (
        ("reports", "block reports: held-out errors by engine, one file per block"),
        ("sensitivity", "sensitivity files: errors by layer and bits, one file per block"),
        ("plots", "plots as PNG, in order of appearance"),
    ):
        parser.add_argument(f"--{name}", type=Path, nargs="+", required=True, help=words)
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
