"""Compare the ladder of a model with that of its hard twin: a Markdown table of all rungs.

Give weights_ladder.json of both. If both have equally many pictures, these are of the same seeds and prompts, and the
loss of each rung is measured picture by picture.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from taqmlx.numerics.quality import bound_median
from taqmlx.planning.evaluation_documents import Rung
from taqmlx.report.study_tables import show_interval, tabulate
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.checksum_files import write_text
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json

HEAD = ("rung", "plain, dB", "hard, dB", "loss, dB", "gain on plain, dB", "gain on hard, dB", "over")
EXPLANATION = """\
Median latent SNR of {plain} pictures of the plain model and of {hard} of its hard twin. A loss is the median of the
differences between the two, picture by picture; it needs equal numbers of pictures. A gain is that to the rung named
last, on the same model. Square brackets: 95 % intervals.
"""


def main(arguments: argparse.Namespace) -> None:
    paths = {"plain": arguments.plain, "hard": arguments.hard}
    ladders = {model: read_json(path, format="weights-ladder") for model, path in paths.items()}
    plain, hard = ({rung["rung"]: rung for rung in ladder["rungs"]} for ladder in ladders.values())
    shared = [name for name in hard if name in plain]
    if not shared:
        raise UserError(f"--hard: {arguments.hard} has no rung of {arguments.plain}; make both ladders again")
    text = EXPLANATION.format(**{model: ladder["pictures"] for model, ladder in ladders.items()})
    table = tabulate(HEAD, (show_rung(plain[name], hard[name], hard) for name in shared))
    write_text(arguments.out, f"# Hard twin beside the plain model\n\n{text}\n{table}\n")
    log.info(f"{len(shared)} rungs in {arguments.out}")


def show_rung(plain: Rung, hard: Rung, rungs: Mapping[str, Rung]) -> list[str]:
    """A row of the table; rungs: of the hard twin, by name."""
    ratios = [f"{rung['latent_snr']['typical']:.2f}" for rung in (plain, hard)]
    gains = [show_interval(rung["gain"], 2) if "gain" in rung else "" for rung in (plain, hard)]
    base = rungs[hard["gain"]["base"]]["title"] if "gain" in hard else ""
    return [hard["title"], *ratios, show_loss(plain, hard), *gains, base]


def show_loss(plain: Rung, hard: Rung) -> str:
    """What the hard twin loses, with its interval; nothing if the pictures are others."""
    own, other = (rung["latent_snr"]["pictures"] for rung in (plain, hard))
    if len(own) != len(other):
        return ""
    value, ends = bound_median(np.subtract(own, other))
    return show_interval({"value": value, "interval_95": ends}, 2)


def build_arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, "out")
    parser.add_argument("--plain", type=Path, required=True, help="weights_ladder.json of the plain model")
    parser.add_argument("--hard", type=Path, required=True, help="weights_ladder.json of the hard twin")
    return parser


if __name__ == "__main__":
    run(main, build_arguments())
