"""Plot images of all variants side by side with their differences from full precision, as PNG and SVG."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from taqmlx.planning.evaluation_documents import EvaluationPrompt
from taqmlx.planning.variants import ALL, FULL_PRECISION
from taqmlx.plots.pictures import EDGE, choose_columns, draw_picture_grid
from taqmlx.plots.style import save_figure
from taqmlx.runtime.entry import Progress, build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json
from taqmlx.store.picture_sets import list_sealed
from taqmlx.store.pictures import read_picture, stack_pictures

COLUMNS = 8
Row = tuple[int, int]


def main(arguments: argparse.Namespace) -> None:
    prompts = read_json(arguments.prompts, format="evaluation-prompts")["prompts"]
    found = list_variants(arguments.images)
    exact = found.pop(FULL_PRECISION, None)
    if exact is None:
        raise UserError(f"no pictures of {FULL_PRECISION} are named; add its shards to --images")
    for name, pictures in found.items():
        if list(pictures) != list(exact):
            raise UserError(f"{name} and {FULL_PRECISION} are not of the same prompts and seeds; draw {name} again")
    rows = list(exact)
    spread, worst = choose_columns(measure_differences(exact, found), COLUMNS)
    chosen = [rows[index] for index in (*spread, *worst)]
    captions = [caption(row, prompts, "") for row in chosen[: len(spread)]]
    captions += [caption(row, prompts, "worst: ") for row in chosen[len(spread) :]]
    drawn = np.stack([read_small([paths[row] for row in chosen]) for paths in (exact, *found.values())])
    titles = [ALL[name].title for name in (FULL_PRECISION, *found)]
    save_figure(draw_picture_grid(drawn, titles, captions), arguments.out / "picture_grid")
    log.info(f"{len(titles)} variants, {len(chosen)} pictures each, in {arguments.out}")


def list_variants(seals: Sequence[Path]) -> dict[str, dict[Row, Path]]:
    """Image paths of each variant, by prompt and seed; the shard's folder gives the variant."""
    found: dict[str, dict[Row, Path]] = {}
    for path in seals:
        seal, pictures = list_sealed(path)
        rows = [tuple(row) for row in seal["parameters"]["pictures"]]
        found.setdefault(path.parent.name, {}).update(zip(rows, pictures, strict=True))
    return found


def measure_differences(exact: dict[Row, Path], found: dict[str, dict[Row, Path]]) -> np.ndarray:
    """Mean absolute difference of each image from full precision, (variants, n)."""
    progress = Progress("differences", len(exact), "pictures")
    measured = np.zeros((len(found), len(exact)))
    for index, row in enumerate(exact):
        first, *others = read_small([exact[row], *(paths[row] for paths in found.values())]).astype(np.float32)
        measured[:, index] = [np.abs(other - first).mean() for other in others]
        progress.advance()
    return measured


def read_small(paths: Sequence[Path]) -> np.ndarray:
    """Images as (n, edge, edge, 3) uint8, reduced to at most EDGE pixels."""
    images = [read_picture(path) for path in paths]
    return stack_pictures(images, min(EDGE, images[0].width))


def caption(row: Row, prompts: Sequence[EvaluationPrompt], prefix: str) -> str:
    """Caption of a column."""
    return f"{prefix}{prompts[row[0]]['text']} (seed {row[1]})"


if __name__ == "__main__":
    parser = build_parser(__doc__, "prompts", "out")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="seals of the variants' shards")
    run(main, parser)
