"""The tables of README.md and docs/, each made of the measured numbers."""

from collections.abc import Callable, Iterable
from functools import partial

from taqmlx.planning.ablation import PAPER_FID
from taqmlx.planning.ablation import VARIANTS as ABLATION
from taqmlx.planning.variants import OTHER_SEEDS, RERUN
from taqmlx.report.evening_tables import show_devices, show_statistics_points, show_stopping, show_work
from taqmlx.report.gpu_table import show_gpu
from taqmlx.report.kinds import COLUMNS
from taqmlx.report.numbers import PLAIN, Numbers, order
from taqmlx.report.study_tables import (
    Entry,
    show_interval,
    sort_ways,
    tabulate,
    tabulate_ablation,
    tabulate_frontier,
    tabulate_ladder,
    tabulate_pictures,
)
from taqmlx.report.tables import Body, Cell, Facts, Table, format_markdown
from taqmlx.store.frontier_file import ROUNDED

README_COLUMNS = 5  # of the frontier, those of the bits saved left out
ITERATIONS = ("rtn", "gptq", "125", "250", "500", "1000", "2000")
POLICIES = {
    "sigma": ("sigma", "`lut`"),
    "token": ("token", "`dynamic`"),
    "groups_of_64": ("token and 64 channels", "`dynamic`, `group_size: 64`"),
    "groups_of_32": ("token and 32 channels", "`dynamic`, `group_size: 32`"),
    "affine_groups_of_64": ("token and 64 channels, with a zero point", "`affine`, `group_size: 64`"),
    "affine_groups_of_32": ("token and 32 channels, with a zero point", "`affine`, `group_size: 32`"),
    "affine_centred": ("the same, with the folds of the default", "`affine`, `group_size: 32`, `folds`"),
}

INPUT_MODELS = {"sd3-medium": "SD3", "embedded": "embedded", "embedded-hard": "hard"}
INPUT_GROUPS = {
    **{f"{s}_{r}": f"{r}, {s}" for r in ("qkv", "o_proj", "fc1", "fc2") for s in ("image", "text")},
    "context_embedder": "`context_embedder`",
    "final_layer_linear": "`final_layer.linear`",
}
VELOCITY_COLUMNS = {
    "w4": "W4, RTN",
    "w4_corrected": "W4, bias corrected",
    "a8_static": "A8, static",
    "a8_token": "A8, per token",
    "a8_static_shift": "static, shifted",
    "a8_token_shift": "per token, shifted",
    "a8_channel": "per channel",
}
OUTLIER_MODELS = {"embedded": "embedded", "all": "embedded-hard"} | {
    part: f"`{part}` alone" for part in ("norm", "value", "offset", "post_gelu", "spike", "context")
}


def show_readme(numbers: Numbers) -> str:
    """Ours at the configured size, the ways of PLAIN, and the one between them that is the nearest above ours."""
    ways, asked = list(numbers["frontier"]["ways"].values()), numbers["frontier"]["measured"]["asked"]
    own = sort_ways(way for way in ways if way.get("asked") == asked)
    low, high = (numbers["frontier"]["ways"][name] for name in PLAIN)
    return tabulate_frontier([low, *own, *find_nearest(ways, own, low, high), high], asked, README_COLUMNS)


def find_nearest(ways: Iterable[Entry], own: Iterable[Entry], low: Entry, high: Entry) -> list[Entry]:
    """The way of nn.quantize, larger than `low` and smaller than `high`, that is the nearest above our rounded one.

    The best of them if none is above, and nothing if there is none of that size.
    """
    subject = next(way for way in own if way["name"] == ROUNDED)
    sizes = (low["bits_per_weight"], high["bits_per_weight"])
    between = [way for way in ways if "asked" not in way and sizes[0] < way["bits_per_weight"] < sizes[1]]
    between.sort(key=lambda way: way["median"]["value"])
    above = [way for way in between if way["median"]["value"] >= subject["median"]["value"]]
    return above[:1] or between[-1:]


def show_frontier(numbers: Numbers) -> str:
    """All ways that are kept, the configured size in bold."""
    group = numbers["frontier"]
    return tabulate_frontier(sort_ways(group["ways"].values()), group["measured"]["asked"])


def show_ladder(numbers: Numbers, group: str) -> str:
    """All rungs."""
    return tabulate_ladder(order(numbers[group]["rungs"]))


def show_hard_ladder(numbers: Numbers) -> str:
    """All rungs on the hard twin, beside the plain model, with the gain of each remedy."""
    plain, hard = (numbers[group]["rungs"] for group in ("ladder", "hard_ladder"))
    titles = {name: rung["title"].strip() for name, rung in hard.items()}
    rows = (
        [titles[name], *(show_ratio(group.get(name)) for group in (plain, hard))]
        + ([show_interval(gain, 2), titles[gain["base"]]] if (gain := rung.get("gain")) else ["", ""])
        for name, rung in sorted(hard.items(), key=lambda entry: entry[1]["place"])
    )
    return tabulate(["rung", "plain, dB", "hard, dB", "gain on hard, dB", "over"], rows)


def show_ratio(rung: Facts | None) -> str:
    """Median latent SNR of a rung; nothing if it was not measured."""
    return f"{rung['latent_snr']['typical']:.1f}" if rung else ""


def show_pictures(numbers: Numbers) -> str:
    """All variants but the rerun, which shows nothing but the order of sums."""
    variants = numbers["pictures"]["variants"]
    return tabulate_pictures(order({name: found for name, found in variants.items() if name != RERUN}))


def show_ablation(numbers: Numbers) -> str:
    """The ablation's rows, beside the paper's, and other seeds."""
    group = numbers["ablation"]
    own = {"title": f"this project, `{group['measured']['configuration']}`"}
    rows = {name: group["variants"][name] for name in (*ABLATION, OTHER_SEEDS)}
    return tabulate_ablation(
        (found | own if name == "w4a8" else found, PAPER_FID.get(name)) for name, found in rows.items()
    )


def show_policies(numbers: Numbers) -> str:
    """Quality by what has a step size of its own."""
    ratios = numbers["policies"]["latent_snr_db"]
    head = "| one step size per | policy | dB |\n|---|---|---:|"
    rows = (f"| {title} | {policy} | {ratios[name]:.1f} |" for name, (title, policy) in POLICIES.items())
    return "\n".join((head, *rows))


def show_iterations(numbers: Numbers) -> str:
    """Quality of two blocks' streams by iterations."""
    blocks: dict[str, dict[str, list[float]]] = numbers["iterations"]["blocks"]
    titles = [name.upper() if name.isalpha() else name for name in ITERATIONS]
    cells = {
        block: [" / ".join(f"{ratio:.1f}" for ratio in ratios.get(name, [])) for name in ITERATIONS]
        for block, ratios in blocks.items()
    }
    return tabulate(["", *titles], ([f"`{block}`", *row] for block, row in cells.items()))


def show_calibration(numbers: Numbers) -> str:
    """Quality by calibration set: distinct prompts, guidance of the trajectories, captured points."""
    columns = ("prompts", "guidance", "captured points", "GPTQ: median, dB", "lowest 5 %, dB")
    rows = [
        [f"{cell['prompts']:,}", cell["guidance"], f"{cell['captured']:,}"]
        + [f"{cell['gptq'][key]['value']:.1f}" for key in ("median", "p5")]
        + [show_interval(cell["distilled"][key], 1) for key in ("median", "p5")]
        + [f"{cell['seconds'] / 60:.1f}", f"{cell['captured_bytes'] / 1e6:.0f}"]
        for cell in numbers["calibration"]["cells"]
    ]
    return tabulate([*columns, "distilled: median, dB", "lowest 5 %, dB", "CPU, min", "captured rows, MB"], rows)


def show_scale(numbers: Numbers) -> str:
    """Costs by the number of prompts, and their growth over linear growth at one prompt per shard."""
    scales, rows = numbers["scale"]["scales"], numbers["scale"]["rows"]
    single = [place for place, scale in enumerate(scales) if scale["per_shard"] == 1]
    first, last = single[0], single[-1]
    linear = scales[last]["prompts"] / scales[first]["prompts"]
    head = [f"{s['prompts']:,}" + (f", {s['per_shard']} per shard" if s["per_shard"] > 1 else "") for s in scales]
    growths = [show_growth(row["values"][first], row["values"][last], linear) for row in rows]
    cells = ([row["title"], *map(show_cost, row["values"]), growth] for row, growth in zip(rows, growths, strict=True))
    return tabulate(["prompts", *head, "growth"], cells)


def show_growth(first: float | None, last: float | None, linear: float) -> str:
    """How many times more than linearly a cost grows; nothing if one of the two was not measured."""
    return f"{last / first / linear:.2f}" if first and last else ""


def show_cost(value: float | None) -> str:
    """Three significant digits, or all before the point; nothing if it was not measured."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show_inputs(numbers: Numbers) -> str:
    """Outliers of the layer inputs, median (largest) of each group, by model."""
    columns = [(measure, model) for measure in ("absmax", "spread", "drift", "offset") for model in INPUT_MODELS]
    rows = (
        [title, *(show_range(numbers["inputs"]["groups"][group][model].get(measure)) for measure, model in columns)]
        for group, title in INPUT_GROUPS.items()
    )
    return tabulate(["layer input", *(f"{measure}, {INPUT_MODELS[model]}" for measure, model in columns)], rows)


def show_range(measure: Facts | None) -> str:
    """Median and largest value, or the only one; a dash if there is none."""
    if measure is None:
        return "-"
    median, largest = (f"{measure[key]:.3g}" for key in ("median", "largest"))
    return largest if measure["median"] == measure["largest"] else f"{median} ({largest})"


def show_outliers(numbers: Numbers) -> str:
    """Relative errors of the velocity, by model and by what is rounded."""
    models = numbers["outliers"]["models"]
    rows = (
        [title, *(f"{models[name]['velocity'][column]:.3f}" for column in VELOCITY_COLUMNS)]
        for name, title in OUTLIER_MODELS.items()
    )
    return tabulate(["", *VELOCITY_COLUMNS.values()], rows)


def show_kinds(numbers: Numbers) -> str:
    """What is quantized, by kind of layer."""
    rows = [[Cell(text) for text in row] for row in numbers["kinds"]["rows"]]
    return format_markdown(Table("kinds", "", COLUMNS, [Body(rows)]))


TABLES: dict[str, Callable[[Facts], str]] = {
    "readme": show_readme,
    "frontier": show_frontier,
    "ladder": partial(show_ladder, group="ladder"),
    "paper_ladder": partial(show_ladder, group="paper_ladder"),
    "hard_ladder": show_hard_ladder,
    "pictures": show_pictures,
    "ablation": show_ablation,
    "policies": show_policies,
    "iterations": show_iterations,
    "kinds": show_kinds,
    "calibration": show_calibration,
    "scale": show_scale,
    "inputs": show_inputs,
    "outliers": show_outliers,
    "work": show_work,
    "devices": show_devices,
    "statistics_points": show_statistics_points,
    "stopping": show_stopping,
    "gpu": show_gpu,
}
