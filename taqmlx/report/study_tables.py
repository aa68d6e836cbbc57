"""Markdown tables of the studies: those of the results, README.md and docs/ are the same."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taqmlx.store.frontier_file import ROUNDED, UNROUNDED

# An entry of a study's file, or of `docs/numbers.json`.
Entry = Mapping[str, Any]
FRONTIER = ("", "bits per weight", "median, dB", "lowest 5 %, dB", "below 5 dB", "saved, median", "saved, lowest 5 %")
LADDER = ("rung", "latents", "worst picture", "blocks", "worst block", "gain", "over")
PICTURES = (
    *("", "FID to real", "FID to full precision", "latent SNR, dB", "PSNR, dB", "SSIM"),
    "prompt accuracy",
)
ABLATION = ("", "FID to full precision", "FID to real", "latent SNR, dB", "prompt accuracy", "FID in the paper")
OURS = {UNROUNDED: "this project, weights only", ROUNDED: "this project, 8-bit inputs (simulated)"}


def tabulate(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column has words and whose others have numbers."""
    lines = [f"| {' | '.join(head)} |".replace("|  |", "| |"), "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def sort_ways(ways: Iterable[Entry]) -> list[Entry]:
    """Ways to quantize, the smallest first; of equal sizes as shown, nn.quantize first and then the best."""
    return sorted(ways, key=lambda way: (round(way["bits_per_weight"], 2), "asked" in way, -way["median"]["value"]))


def tabulate_frontier(ways: Iterable[Entry], asked: float | None = None, columns: int = len(FRONTIER)) -> str:
    """The first `columns` of ways to quantize; ours of the size `asked` are in bold."""
    rows = (show_way(way, "**" if asked is not None and way.get("asked") == asked else "")[:columns] for way in ways)
    return tabulate(FRONTIER[:columns], rows)


def show_way(way: Entry, mark: str = "") -> list[str]:
    """A row of the frontier, its size and quality between marks."""
    saved = way.get("bits_saved", {})
    title = OURS[way["name"]] if "asked" in way else way["title"].replace("nn.quantize", "`nn.quantize`")
    cells = [title, f"{way['bits_per_weight']:.2f}", *(f"{way[key]['value']:.1f}" for key in ("median", "p5"))]
    cells.append(f"{100 * way['otherwise']['value']:.1f} %")
    savings = (show_interval(saved[key], 2) if key in saved else "" for key in ("median", "p5"))
    return [*(f"{mark}{cell}{mark}" for cell in cells), *savings]


def tabulate_ladder(rungs: Iterable[Entry]) -> str:
    """A row for each rung; two spaces before a title indent it."""
    shown = [show_rung(rung) for rung in rungs]
    return tabulate(LADDER[: max(map(len, shown))], (row + [""] * (max(map(len, shown)) - len(row)) for row in shown))


def show_rung(rung: Entry) -> list[str]:
    """A rung's ratios in dB, typical and worst of the latents, then of the blocks; and its gain, if it has a base."""
    ratios = (rung[kind][key] for kind in ("latent_snr", "block_snr") for key in ("typical", "worst"))
    gain = [show_interval(rung["gain"], 2), f"`{rung['gain']['base']}`"] if "gain" in rung else []
    return [rung["title"].replace("  ", "&nbsp;&nbsp;"), *(f"{ratio:.2f}" for ratio in ratios), *gain]


def tabulate_pictures(variants: Iterable[Entry]) -> str:
    """A row for each variant."""
    return tabulate(PICTURES, map(show_variant, variants))


def show_variant(found: Entry) -> list[str]:
    """A variant's measures. Full precision is at no distance from itself."""
    paired = found.get("paired")
    ratios = (("latent_snr_db", 1), ("psnr_db", 1), ("ssim", 4))
    return [
        found["title"],
        f"{found['fid_to_real']['value']:.2f}",
        show_interval(found["fid_to_full_precision"], 3) if paired else "",
        *(show_median(paired, key, digits) for key, digits in ratios),
        show_accuracy(found),
    ]


def tabulate_ablation(rows: Iterable[tuple[Entry, float | None]]) -> str:
    """A row for each variant, with the paper's FID where it has one."""
    return tabulate(ABLATION, (show_ablation(found, paper) for found, paper in rows))


def show_ablation(found: Entry, paper: float | None) -> list[str]:
    """A variant's distances, ratio and accuracy. Full precision is at no distance from itself."""
    paired = found.get("paired")
    return [
        found["title"],
        show_interval(found["fid_to_full_precision"], 3) if paired else "",
        show_interval(found["fid_to_real"], 2),
        show_median(paired, "latent_snr_db", 1),
        show_accuracy(found),
        "" if paper is None else f"{paper:.2f}",
    ]


def show_interval(found: Entry, digits: int) -> str:
    """A value with its interval."""
    low, high = found["interval_95"]
    return f"{found['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def show_median(paired: Entry | None, key: str, digits: int) -> str:
    """The median of a measure of pairs, `exact` if it is infinite; nothing of full precision, which has none."""
    if not paired:
        return ""
    median = paired[key]["median"]
    return "exact" if median is None else f"{median:.{digits}f}"


def show_accuracy(found: Entry) -> str:
    """The share of pictures that show all that was asked; nothing where that is unknown."""
    accuracy = found["prompt_accuracy"]
    return f"{100 * accuracy['all']['value']:.1f} %" if accuracy else ""
