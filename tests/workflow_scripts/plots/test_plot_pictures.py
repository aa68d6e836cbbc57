"""The command that draws the pictures of the variants side by side."""

from argparse import Namespace

import numpy as np
import pytest

from taqmlx.plots.pictures import draw_picture_grid
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, write_json
from taqmlx.store.pictures import name_picture, write_picture
from taqmlx.store.seal import make_seal
from workflow_scripts.plots import plot_pictures

PROMPTS = [{"text": "a red circle"}, {"text": "a blue square to the left of a very large green triangle"}]


def draw_shard(folder, variant, part, pictures):
    """A shard of a variant's pictures; `pictures`: its prompts and seeds."""
    rng = np.random.default_rng(len(variant))
    seal = folder / variant / f"{part}.json"
    for _, seed in pictures:
        path = name_picture(seal.with_suffix(""), seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, rng.integers(0, 255, (16, 16, 3)).astype(np.uint8), np.zeros((2, 2, 4), np.float32), {})
    paths = [name_picture(seal.with_suffix(""), seed) for _, seed in pictures]
    digests = {path.name: [hash_file(path), hash_file(path.with_suffix(".safetensors"))] for path in paths}
    write_json(seal, make_seal({"pictures": pictures}, {}, digests))
    return seal


@pytest.fixture
def arguments(tmp_path):
    write_json(tmp_path / "prompts.json", {"format": "evaluation-prompts", "prompts": PROMPTS})
    shards = [
        draw_shard(tmp_path, variant, part, [[prompt, 10 + prompt]])
        for variant in ("fp", "w4a16", "w4a8")
        for prompt, part in enumerate(("00", "01"))
    ]
    return Namespace(prompts=tmp_path / "prompts.json", images=shards, out=tmp_path / "plots", log=None)


def test_the_grid_is_written_in_both_formats_and_a_rerun_gives_the_same_bytes(arguments):
    plot_pictures.main(arguments)
    first = {path.name: path.read_bytes() for path in arguments.out.iterdir()}
    plot_pictures.main(arguments)
    assert first.keys() == {"picture_grid.png", "picture_grid.svg", "picture_grid.sha256"}
    assert first == {path.name: path.read_bytes() for path in arguments.out.iterdir()}


def test_full_precision_alone_is_drawn(arguments):
    arguments.images = arguments.images[:2]
    plot_pictures.main(arguments)
    assert (arguments.out / "picture_grid.png").is_file()


def test_pictures_without_full_precision_are_rejected(arguments):
    arguments.images = arguments.images[2:]
    with pytest.raises(UserError, match="no pictures of fp"):
        plot_pictures.main(arguments)


def test_pictures_of_other_seeds_are_rejected(arguments, tmp_path):
    arguments.images[-1] = draw_shard(tmp_path, "w4a8", "01", [[1, 99]])
    with pytest.raises(UserError, match="w4a8 and fp are not of the same prompts and seeds"):
        plot_pictures.main(arguments)


def test_a_missing_picture_is_named(arguments):
    name_picture(arguments.images[-1].with_suffix(""), 11).unlink()
    with pytest.raises(UserError, match="is missing"):
        plot_pictures.main(arguments)


def test_the_differences_are_mean_absolute_differences(arguments):
    found = plot_pictures.list_variants(arguments.images)
    exact = found.pop("fp")
    one, other = (plot_pictures.read_small([paths[1, 11]])[0].astype(float) for paths in (exact, found["w4a8"]))
    measured = plot_pictures.measure_differences(exact, found)
    assert measured.shape == (2, 2)
    assert measured[1, 1] == pytest.approx(np.abs(one - other).mean())


def test_a_dollar_sign_in_a_prompt_is_text(tmp_path):
    prompts = ["costs $x^{ and $y", "a \\frac $$ <b>"]
    figure = draw_picture_grid(np.zeros((2, 2, 8, 8, 3), np.uint8), ["full precision", "w4a8"], prompts)
    figure.savefig(tmp_path / "x.png")
