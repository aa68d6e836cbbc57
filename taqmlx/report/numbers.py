"""The measured numbers of the documents, docs/numbers.json: a group of each study.

A group has the shape of its result file without the single pictures; lists of named things become dictionaries.
`measured` says on what: the pictures, their steps and guidance, the configuration, the machine. The groups of
benchmarks are read by `benchmark_groups.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from taqmlx.planning import ladder
from taqmlx.planning.evaluation_documents import Way
from taqmlx.planning.plan import list_layers
from taqmlx.planning.variants import ALL, BY_CONFIGURATION
from taqmlx.report.benchmark_groups import (
    read_bench_group,
    read_calibration_group,
    read_inputs_group,
    read_outliers_group,
    read_scale_group,
)
from taqmlx.report.kinds import tabulate_kinds
from taqmlx.report.runs import describe_stage, read_benchmarks
from taqmlx.report.tables import Facts, pick
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, read_plain_json
from taqmlx.store.frontier_file import find_best, list_ours, list_plain, read_frontier
from taqmlx.store.quant_config import read_quant_config

Numbers = dict[str, Facts]
SIGNIFICANT = 6  # digits kept
PLAIN = ("plain_4_4_g64", "plain_8_8_g64")  # shown wherever the frontier is
# The title of a variant whose widths the configuration decides, after these widths.
LEARNED = {"weights": "learned", "quant_config": "learned", "multitier": "learned (multitier)"}
# Titles of older results, in the words of the documents.
WORDS = {
    "to nearest": "RTN",
    "per sigma": "LUT",
    "feed-forward only, but for inputs after the GELU": "feed-forward without post-GELU inputs",
    "all but inputs after the GELU": "without post-GELU inputs",
}
MAIN_JOB = (
    *("encode_prompts", "collect_shard", "gather_calibration", "collect_activations", "merge_activations"),
    *("capture_blocks", "measure_costs", "optimise_block", "round_shared", "distil", "pack_weights"),
    "write_quant_config",
)


class Source(NamedTuple):
    """What a group is read from, among the results, and how; `asked` is the configured size in bits per weight."""

    name: str
    read: Callable[[Path, float | None], Facts]


def read_frontier_group(path: Path, asked: float | None) -> Facts:
    """Ours, the best ways to call `nn.quantize` and those of PLAIN; `equal_bits` of these are as good as ours."""
    content = read_frontier(path)
    ways = [*list_ours(content), *find_best(content), *(way for way in list_plain(content) if way["name"] in PLAIN)]
    named: dict[str, Facts] = {}
    for way in ways:
        own = named[name_way(way)] = {key: value for key, value in way.items() if key != "ratios"}
        if "asked" in way:
            own["equal_bits"] = way["bits_per_weight"] + way["bits_saved"]["median"]["value"]
    sizes = {way["asked"] for way in list_ours(content)}
    if asked not in sizes:
        raise UserError(f"{path} has no size of {asked} bits per weight; choose one with --size")
    counts = {"plain_ways": len(list_plain(content)), "sizes": len(sizes), "asked": asked}
    return {"measured": describe_pictures(content) | counts, "ways": named}


def name_way(way: Way) -> str:
    """A way's name; of ours with the size asked for, as `w_a8_4_5`."""
    return f"{way['name']}_{way['asked']:g}".replace(".", "_") if "asked" in way else way["name"]


def describe_pictures(content: Mapping[str, Any]) -> Facts:
    """Of which pictures the numbers are."""
    return {"pictures": content["n"], "steps": content["steps"], "guidance": content["cfg"]}


def read_ladder_group(path: Path, asked: float | None) -> Facts:
    """The rungs in their order, with `latent_snr` and `block_snr` as `typical` and `worst`, and gains over others."""
    content = read_json(path, format="weights-ladder")
    titles = {name: title for name, (title, _) in ladder.RUNGS.items()}
    rungs = {
        rung["rung"]: {"title": change_words(titles.get(rung["rung"], rung["title"])), "place": place}
        | {kind: {key: rung[kind][key] for key in ("typical", "worst")} for kind in ("latent_snr", "block_snr")}
        | {key: rung[key] for key in ("gain",) if key in rung}
        for place, rung in enumerate(content["rungs"])
    }
    return {"measured": {"pictures": content["pictures"]}, "rungs": rungs}


def read_hard_ladder_group(path: Path, asked: float | None) -> Facts:
    """The rungs of the hard twin, as `read_ladder_group`."""
    group = read_ladder_group(path, asked)
    return group | {"measured": group["measured"] | {"configuration": "config/hard.yaml"}}


def read_evaluation_group(path: Path, asked: float | None) -> Facts:
    """Every variant's distances, paired measures and accuracy, those of the noise floor too."""
    content = read_json(path, format="evaluation")
    variants = content["variants"] | content["noise_floor"]
    named = {name: describe_variant(name, found, place) for place, (name, found) in enumerate(variants.items())}
    return {"measured": describe_pictures(content) | {"prompts": content["prompts"]}, "variants": named}


def describe_variant(name: str, found: Facts, place: int) -> Facts:
    """A variant's measures, without counts and worst pictures."""
    source = ALL[name].source if name in ALL else ""
    is_configured = source in (*BY_CONFIGURATION, "multitier") and found.get("size")
    title = f"{found['size']['precision']}, {LEARNED[source]}" if is_configured else change_words(found["title"])
    kept = {"title": title, "place": place, "prompt_accuracy": None}
    for key in ("fid_to_real", "fid_to_full_precision"):
        kept[key] = pick(found[key], "value", "interval_95")
    if accuracy := found["prompt_accuracy"]:
        kept["prompt_accuracy"] = {key: pick(share, "value", "interval_95") for key, share in accuracy.items()}
    if paired := found.get("paired"):
        kept["paired"] = {key: pick(value, "value", "median", "interval_95") for key, value in paired.items()}
    if size := found.get("size"):
        kept["bits_per_weight"] = size["bits_per_weight"]
    return kept


def change_words(title: str) -> str:
    """A title in the documents' words."""
    for old, new in WORDS.items():
        title = title.replace(old, new)
    return title


def read_multitier_group(path: Path, asked: float | None) -> Facts:
    """The mean of the chosen bits, and the share of each tier."""
    summary = read_plain_json(path)["analysis"]["summary"]
    shares = {f"a{bits}": summary[f"a{bits}_percentage"] / 100 for bits in (4, 6, 8)}
    return {"measured": {"decisions": summary["total_decisions"]}, "mean_bits": summary["mean_bits"], "shares": shares}


def read_kinds_group(path: Path, asked: float | None) -> Facts:
    """The cells of `describe_quantization`'s table."""
    config = read_quant_config(path)
    table = tabulate_kinds(list_layers(config.content["model"]), config)
    return {"measured": {}, "rows": [[cell.text for cell in row] for body in table.bodies for row in body.rows]}


def read_jobs_group(path: Path, asked: float | None) -> Facts:
    """Processor minutes of the main job, and the largest resident memory of its stages, MB, beside that of each."""
    stages = read_benchmarks(path.parent)
    own = {name: stages[name] for name in MAIN_JOB if name in stages}
    seconds = [float(row["cpu_time"]) for rows in own.values() for row in rows if row["cpu_time"] not in ("-", "NA")]
    memory = {name: found for name, rows in own.items() if (found := describe_stage(name, rows)["memory"])}
    return {"measured": {}, "cpu_minutes": sum(seconds) / 60, "peak_mb": max(memory.values()), "peaks_mb": memory}


SOURCES = {
    "frontier": Source("frontier.json", read_frontier_group),
    "ladder": Source("weights_ladder.json", read_ladder_group),
    "hard_ladder": Source("hard/weights_ladder.json", read_hard_ladder_group),
    "pictures": Source("fid.json", read_evaluation_group),
    "ablation": Source("ablation.json", read_evaluation_group),
    "multitier": Source("quant_config_multitier.json", read_multitier_group),
    "kinds": Source("quant_config.json", read_kinds_group),
    "main_job": Source("benchmarks/write_quant_config.tsv", read_jobs_group),
    "bench": Source("bench.json", read_bench_group),
    "calibration": Source("bench_calibration", read_calibration_group),
    "scale": Source("scale.json", read_scale_group),
    "inputs": Source("inputs.json", read_inputs_group),
    "outliers": Source("bench_outliers.json", read_outliers_group),
}


def collect(paths: Mapping[str, Path], asked: float | None, about: Facts) -> Numbers:
    """The groups read from `paths`, each measured on `about` too."""
    groups = {name: SOURCES[name].read(path, asked) for name, path in paths.items()}
    return {name: shorten(group | {"measured": about | group["measured"]}) for name, group in groups.items()}


def shorten(value: Any) -> Any:
    """`value` with floats of SIGNIFICANT digits."""
    if isinstance(value, dict):
        return {key: shorten(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shorten(item) for item in value]
    return float(f"{value:.{SIGNIFICANT}g}") if isinstance(value, float) else value


def find(numbers: Numbers, name: str) -> float:
    """The number of a dotted name. Raises KeyError if there is none."""
    found: Any = numbers
    for key in name.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, int | float):
        raise KeyError(name)
    return found


def order(named: Mapping[str, Facts]) -> Iterable[Facts]:
    """Rungs or variants as they stand in their file."""
    return sorted(named.values(), key=lambda facts: facts["place"])
