"""Pictures from the command line: full precision, quantized weights, and quantized activations."""

import logging
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from taqmlx.models import embedded
from taqmlx.numerics.quality import measure_psnr
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, read_json, write_json
from taqmlx.training.scoring import generate_pictures
from workflow_scripts.tools.generate import build_arguments, main

PROMPTS = ["a red circle", "a large blue square on a black background"]
STEPS = 4


@pytest.fixture
def generate(tmp_path, caplog):
    """`generate(*options)`: the picture (h, w, 3) and the lines that were logged."""

    def call(*options, prompts=PROMPTS[:1], out="picture.png"):
        named = [part for prompt in prompts for part in ("--prompt", prompt)]
        options = [*named, "--steps", str(STEPS), "--out", tmp_path / out, *options]
        caplog.clear()
        with caplog.at_level(logging.INFO, "taqmlx"):
            main(build_arguments().parse_args([str(option) for option in options]))
        return np.array(Image.open(tmp_path / out)), caplog.text

    return call


@pytest.fixture
def sources(quantized_study):
    return {"W4A16": ("--weights", quantized_study.quantized), "W4A8": ("--quant-config", quantized_study.quant_config)}


def find_numbers(text):
    """PSNR and latent SNR of the last line."""
    return [float(number) for number in re.findall(r"(-?\d+\.\d|inf) dB", text.strip().splitlines()[-1])]


def test_matching_weights_and_config_may_both_be_named(generate, sources, quantized_study, tmp_path):
    alone, _ = generate(*sources["W4A8"])
    both, _ = generate(*sources["W4A16"], *sources["W4A8"])
    np.testing.assert_array_equal(both, alone)
    other = shutil.copytree(quantized_study.quantized, tmp_path / "other")
    config = read_json(other / "config.json")
    (other / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes() + b" ")
    config["model"] |= {"sha256": hash_file(other / "model.safetensors")}
    write_json(other / "config.json", config)
    with pytest.raises(UserError):
        generate("--weights", other, *sources["W4A8"])


class TestFullPrecision:
    def test_one_picture_is_written_at_its_size(self, generate):
        picture, log = generate("--seed", 5)
        expected = generate_pictures(embedded.FOLDER, PROMPTS[:1], STEPS, 3.0, seed=5)
        np.testing.assert_array_equal(picture, expected[0])
        assert "1 picture, full precision, in" in log

    def test_several_pictures_make_a_grid_and_each_has_its_own_seed(self, generate, tmp_path):
        grid, _ = generate("--seed", 5, prompts=PROMPTS)
        assert grid.shape[1] > 2 * 3 * embedded.PICTURE_SIZE
        alone, _ = generate("--seed", 6, prompts=PROMPTS[1:])
        cell = grid[12 : 12 + 192, 216 + 12 : 216 + 12 + 192][1::3, 1::3]
        assert measure_psnr(cell[None], alone[None]) > 45

    def test_prompts_can_be_read_from_a_file(self, generate, tmp_path):
        (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
        arguments = ["--prompts-file", tmp_path / "prompts.txt", "--steps", STEPS, "--out", tmp_path / "other.png"]
        main(build_arguments().parse_args(list(map(str, arguments))))
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / "other.png")), generate(prompts=PROMPTS)[0])

    def test_ignored_text_is_reported(self, generate):
        _, log = generate(prompts=["a red dragon", "a red circle"])
        assert "dropped text: unknown words in 1 of 2 prompts (dragon)" in log

    def test_guidance_and_negative_prompt_change_the_picture(self, generate):
        pictures = [generate(*options)[0] for options in ((), ("--cfg", 1.5), ("--negative-prompt", "a red circle"))]
        assert len({picture.tobytes() for picture in pictures}) == 3

    def test_default_values_can_be_given(self, generate):
        np.testing.assert_array_equal(generate()[0], generate("--size", 64, "--seed", 0, "--model", "embedded")[0])

    def test_a_png_file_says_how_it_was_made(self, generate, tmp_path):
        generate("--seed", 5, "--cfg", 1.5, prompts=PROMPTS)
        text = Image.open(tmp_path / "picture.png").text
        assert text["prompt"].split("\n") == PROMPTS
        assert (text["seed"], text["steps"], text["cfg"], text["model"]) == ("5", str(STEPS), "1.5", "embedded")
        assert "weights_sha256" not in text

    def test_another_format_has_no_such_text_and_is_written(self, generate):
        assert generate(out="picture.webp")[0].shape == (64, 64, 3)


class TestQuantized:
    def test_a_png_file_names_the_packed_weights(self, generate, sources, quantized_study, tmp_path):
        generate(*sources["W4A8"])
        digest = Image.open(tmp_path / "picture.png").text["weights_sha256"]
        assert digest == hash_file(quantized_study.quantized / "model.safetensors")

    @pytest.mark.parametrize("kind", ["W4A16", "W4A8"])
    def test_the_output_says_what_is_quantized_and_what_is_simulated(self, generate, sources, kind):
        picture, log = generate(*sources[kind])
        assert f"1 picture, {kind}, in" in log
        assert f"{kind}: weights of 68 of 74 linear layers" in log
        assert ("of 57 quantized, simulated in floating point" in log) == (kind == "W4A8")
        assert ("activations in full precision" in log) == (kind == "W4A16")
        assert not np.array_equal(picture, generate()[0])

    def test_a_comparison_has_both_pictures_and_their_distance(self, generate, sources):
        grid, log = generate(*sources["W4A8"], "--compare")
        exact, quantized = (grid[12:204, left : left + 192][1::3, 1::3] for left in (12, 228))
        np.testing.assert_array_equal(exact, generate()[0])
        np.testing.assert_array_equal(quantized, generate(*sources["W4A8"])[0])
        psnr, snr = find_numbers(log)
        assert psnr == pytest.approx(measure_psnr(quantized[None], exact[None]), abs=0.06)
        assert 5 < snr < 40

    def test_fewer_quantized_blocks_are_closer_to_full_precision(self, generate, sources):
        numbers = {}
        for blocks in ("mm_00,mm_01,mm_02,mm_03,mm_04", "mm_03"):
            _, log = generate(*sources["W4A8"], "--compare", "--blocks", blocks, prompts=PROMPTS[1:])
            numbers[blocks] = find_numbers(log)[1]
        assert "weights of 14 of 74 linear layers" in log
        assert numbers["mm_03"] > numbers["mm_00,mm_01,mm_02,mm_03,mm_04"]

    def test_pairs_stay_side_by_side(self, generate, sources):
        grid, _ = generate(*sources["W4A16"], "--compare", prompts=PROMPTS * 2, out="pairs.png")
        assert grid.shape[1] == 4 * 216

    def test_lookups_differ_between_the_noise_levels(self, generate, sources):
        nearest, default, interpolated = (
            generate(*sources["W4A8"], *options)[0]
            for options in (("--lookup", "nearest"), (), ("--lookup", "interpolated"))
        )
        np.testing.assert_array_equal(nearest, default)
        assert not np.array_equal(nearest, interpolated)

    def test_the_table_of_differences_has_every_quantized_layer(self, generate, sources):
        _, log = generate(*sources["W4A16"], "--diff-stats", "--blocks", "mm_00,mm_04")
        rows = re.findall(r"^(mm_\d\d\.\S+) +(\d) +(\d+) +(\S+) +(\S+) +(\S+) dB$", log, re.MULTILINE)
        assert len(rows) == 14 + 11
        assert {name[:5] for name, *_ in rows} == {"mm_00", "mm_04"}
        for name, bits, group, mean, largest, decibels in rows:
            assert (bits, group) == ("8" if "adaLN" in name else "4", "64")
            assert 0 < float(mean) < float(largest)
            assert float(decibels) == pytest.approx(-21 if bits == "4" else -45, abs=4)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--steps", 0), "--steps 0: must be at least 1"),
            (("--cfg", 0), "--cfg 0: must be above 0"),
            (("--cfg", math.nan), "--cfg nan: must be above 0"),
            (("--seed", -1), "--seed -1: must be 0 to 2147483647"),
            (("--size", 128), "--size 128: the model embedded draws 64 x 64 pixels only"),
            (("--height", 32), "--height 32: the model embedded draws 64 x 64 pixels only"),
            (("--size", 64, "--width", 96), "--size 64 --width 96: the model embedded draws 64 x 64 pixels only"),
            (("--compare",), "--compare: name what to quantize with --weights or --quant-config"),
            (("--diff-stats", "--blocks", "mm_00"), "--diff-stats/--blocks: name what to quantize"),
            (("--weights", "nowhere"), "nowhere/config.json is missing"),
            (("--quant-config", "nowhere.json"), "nowhere.json is missing"),
        ],
    )
    def test_impossible_options_are_named(self, generate, options, words):
        with pytest.raises(UserError, match=re.escape(words)):
            generate(*options)

    def test_an_unknown_block_is_rejected_with_the_list(self, generate, sources):
        with pytest.raises(UserError, match=r"no block mm_05, nm_00; choose from mm_00, mm_01, mm_02, mm_03, mm_04$"):
            generate(*sources["W4A16"], "--blocks", "mm_00,mm_05,nm_00")

    def test_a_picture_without_a_known_suffix_is_rejected_before_it_is_drawn(self, generate, tmp_path):
        with pytest.raises(UserError, match=r"picture\.xyz: must be a name like picture\.png"):
            generate(out="picture.xyz")

    def test_a_missing_prompt_file_is_named(self, generate, tmp_path):
        arguments = build_arguments().parse_args(["--prompts-file", "nowhere.txt", "--out", str(tmp_path / "a.png")])
        with pytest.raises(UserError, match=r"cannot read nowhere\.txt"):
            main(arguments)

    def test_weights_of_another_model_are_rejected(self, generate, quantized_study, tmp_path):
        folder = shutil.copytree(quantized_study.quantized, tmp_path / "quantized")
        config = read_json(folder / "config.json")
        config["origin"]["model"]["transformer.safetensors"] = "0" * 64
        write_json(folder / "config.json", config)
        with pytest.raises(UserError, match="made of other weights than those of this model"):
            generate("--weights", folder)

    def test_the_command_prints_one_line(self, python):
        command = [python, "-m", "workflow_scripts.tools.generate", "--prompt", "x", "--steps", "0"]
        done = subprocess.run([*command, "--out", "a.png"], capture_output=True, text=True, timeout=600)
        assert done.returncode == 1
        assert done.stderr.splitlines() == ["error: --steps 0: must be at least 1"]
