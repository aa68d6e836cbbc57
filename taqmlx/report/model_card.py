"""Model card: the README.md of the folder with the packed weights, which is ready to be published."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from taqmlx.planning.checkpoint_documents import PackedConfig
from taqmlx.planning.evaluation_documents import Frontier, Interval, Way
from taqmlx.report import frontier as sizes
from taqmlx.report.overview import choose_subject, order_variants, read_result
from taqmlx.report.tables import Body, Cell, Column, Facts, Table, format_fixed, format_markdown, show_number
from taqmlx.runtime.summary import format_bytes
from taqmlx.runtime.versions import find_version
from taqmlx.store.frontier_file import list_ours, list_plain

MLX_FLOOR = "0.32.2"
COMMUNITY = "stabilityai-ai-community"
ENGINES = {"rtn": "rounding to nearest (RTN)", "gptq": "GPTQ", "adaround": "learned rounding (AdaRound) block by block"}
COLUMNS = (
    Column("", is_number=False),
    Column("bits per weight"),
    Column("median SNR, dB"),
    Column("lowest 5 %, dB"),
    Column("below 5 dB, %"),
)


class Base(NamedTuple):
    """A base model: its name, Hub repository and license, and how DiffusionKit draws with it.

    loader: what builds its transformer; pipeline: DiffusionKit's class, "" if it has none; options: of that class;
    drawing: further arguments of `generate_image`; note: what a user has to know about the model.
    """

    name: str
    repo: str = ""
    licence: str = "mit"
    licence_name: str = ""
    loader: str = "DiffusionKit"
    pipeline: str = ""
    options: str = ""
    drawing: str = ""
    note: str = ""

    @property
    def title(self) -> str:
        """The name with a capital letter."""
        return self.name[0].upper() + self.name[1:]

    @property
    def licence_link(self) -> str:
        """Where the text of the license is."""
        return f"https://huggingface.co/{self.repo}/blob/main/LICENSE.md"


def describe_stability(name: str, repo: str, version: str) -> Base:
    """A model of Stability AI."""
    options = f'shift=3.0, low_memory_mode=False, model_version="argmaxinc/mlx-stable-diffusion-{version}"'
    drawing = "cfg_weight=5.0, num_steps=28, latent_size=(64, 64)"
    return Base(name, repo, "other", COMMUNITY, pipeline="DiffusionPipeline", options=options, drawing=drawing)


EMBEDDED = Base(
    "a Stable Diffusion 3 in miniature, trained for this project", loader="`taqmlx.models.embedded.load_transformer`"
)
# Its weights are all replaced, so a twin without outliers loads those of any.
HARD = EMBEDDED._replace(
    name="the embedded model with the outliers of a large one",
    loader="`taqmlx.models.embedded_hard.HardModel([]).load_transformer`",
    note="The base model is made from the embedded model by exact transforms: it draws the same pictures. It lacks\n"
    "what no exact transform makes: massive tokens in the residual stream, drift of a channel's scale over the noise\n"
    "levels, large weight columns for large channels, and outliers after the GELU that do not cancel. With the part\n"
    "`context`, encode prompts by `HardModel`, too.",
)
# By the configuration's `model`.
BASES = {
    "embedded": EMBEDDED,
    "embedded-hard": HARD,
    "sd3-medium": describe_stability("Stable Diffusion 3 Medium", "stabilityai/stable-diffusion-3-medium", "3-medium"),
    "sd3.5-large": describe_stability(
        "Stable Diffusion 3.5 Large", "stabilityai/stable-diffusion-3.5-large", "3.5-large"
    ),
    "flux-schnell": Base(
        "FLUX.1-schnell",
        "black-forest-labs/FLUX.1-schnell",
        "apache-2.0",
        pipeline="FluxPipeline",
        options='low_memory_mode=False, model_version="argmaxinc/mlx-FLUX.1-schnell"',
        drawing="cfg_weight=0.0, num_steps=4, latent_size=(64, 64)",
    ),
}


def render_card(
    config: Facts, fid: Facts, frontier: Frontier, packed: PackedConfig, kinds: Table, digests: Mapping[str, str]
) -> str:
    """The card as Markdown.

    config: the configuration; fid: the scores; frontier: quality against size; packed: config.json of the folder;
    kinds: table of `tabulate_kinds`; digests: sha256 (hex) of the files of the folder, by name.
    """
    environment = Environment(  # Markdown: nothing to escape
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    subject = choose_subject(order_variants(fid, config["evaluation_variants"]))
    content = {
        "model": config["model"],
        "base": BASES[config["model"]],
        "bits": format_fixed(packed["bits_per_weight"], 2),
        "size": format_bytes(packed["model"]["bytes"]),
        "setting": sizes.describe_setting(frontier).capitalize(),
        "quality": format_markdown(tabulate_quality(frontier, config["bits_per_weight"], packed["bits_per_weight"])),
        "reading": read_result(fid, subject),
        "kinds": format_markdown(kinds),
        "calibration": f"{config['trajectories']:,} trajectories of {config['steps']} steps",
        "searched": config["bits_per_weight"] is not None,
        "method": ENGINES[config["engine"]],
        "distilled": config["distil"] != "none",
        "mlx_floor": MLX_FLOOR,
        "mlx_version": find_version("mlx"),
        "digests": digests,
    }
    return environment.get_template("model_card.md.jinja").render(content)


def tabulate_quality(frontier: Frontier, asked: float | None, bits: float) -> Table:
    """Table of this model's quality, beside `nn.quantize` at no more bits per weight and at equal quality or better."""
    ours = [way for way in list_ours(frontier) if way["asked"] == asked]
    rows = [show_way(way, "**") for way in ours]
    best = max((way["median"]["value"] for way in ours), default=0.0)
    plain = sorted(list_plain(frontier), key=lambda way: way["median"]["value"])
    smaller = [way for way in plain if way["bits_per_weight"] <= bits + 0.005]
    better = [way for way in plain if way["median"]["value"] >= best]
    return Table("quality", "", COLUMNS, [Body([*rows, *map(show_way, smaller[-1:]), *map(show_way, better[:1])])])


def show_way(way: Way, weight: str = "") -> list[Cell]:
    """Row of one way to quantize; its title between `weight`."""
    found = (way["median"], 1, 1), (way["p5"], 1, 1), (way["otherwise"], 1, 100)
    intervals = [Cell(show_ends(*one)) for one in found]
    return [Cell(f"{weight}{way['title']}{weight}"), show_number(way["bits_per_weight"]), *intervals]


def show_ends(found: Interval, digits: int, scale: float) -> str:
    """A value with its interval in brackets."""
    low, high = (format_fixed(scale * end, digits) for end in found["interval_95"])
    return f"{format_fixed(scale * found['value'], digits)} [{low}, {high}]"
