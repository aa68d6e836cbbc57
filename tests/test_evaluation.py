"""The evaluation from prompts to scores: separate from calibration, paired and resumable, with clear faults."""

import json
import shutil
from argparse import Namespace

import numpy as np
import psutil
import pytest
from PIL import Image

from taqmlx.evaluation.distances import compute_fid
from taqmlx.numerics.quality import measure_psnr, measure_snr
from taqmlx.planning import configuration, plan
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.pictures import read_latents
from taqmlx.store.tensors import read_sealed_tensors, read_tensors, write_sealed_tensors
from tests.plots.synthetic import build_frontier
from tests.support.evaluation_study import Evaluation
from workflow_scripts.evaluation import draw_reference, extract_features, measure_growth, write_evaluation_prompts

VARIANTS = ["fp", "w4a16", "w4a8"]


@pytest.fixture(scope="module")
def sources(quantized_study):
    """What the quantized variants' layers come from."""
    return {"w4a16": [quantized_study.quantized / "model.safetensors"], "w4a8": [quantized_study.quant_config]}


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory):
    evaluation = Evaluation(tmp_path_factory.mktemp("evaluation"), sources, evaluation_variants=VARIANTS)
    evaluation.finish()
    return evaluation, evaluation.score()


@pytest.fixture
def copy(finished, tmp_path):
    """The finished evaluation, free to be damaged."""
    evaluation, _ = finished
    shutil.copytree(evaluation.folder, tmp_path, dirs_exist_ok=True)
    return Evaluation(tmp_path, evaluation.sources, evaluation_variants=VARIANTS)


def name_pictures(evaluation, variant, part="00"):
    return sorted((evaluation.folder / "images" / variant / part).glob("*.png"))


def test_titles_have_the_widths_of_what_was_measured(finished):
    titles = {name: about["title"] for name, about in finished[1]["variants"].items()}
    assert titles == {
        "fp": "full precision",
        "w4a16": "W4A16, packed weights",
        "w4a8": "W4A8, packed weights and the quantization config",
    }
    assert "8-bit" not in finished[1]["notes"]["simulated"]


def score_with_frontier(evaluation, frontier, **changes):
    """The scores with a frontier of as many steps as the evaluation's pictures have."""
    write_json(evaluation.folder / "score.json", read_json(evaluation.folder / "score.json") | changes)
    write_json(evaluation.folder / "frontier.json", frontier | {"steps": 2})
    return evaluation.score("--frontier", evaluation.locate("frontier.json"))


class TestPrompts:
    def test_are_of_one_object_and_of_two_and_say_what_they_ask(self, finished):
        prompts = read_json(finished[0].folder / "prompts.json")["prompts"]
        assert [prompt["asked"][0] for prompt in prompts] == [0, 1] * 3

    def test_and_seeds_are_not_those_of_calibration(self, finished):
        evaluation = read_json(finished[0].folder / "prompts.json")
        used = set(configuration.read_prompts(configuration.Path("config/prompts/embedded.txt")))
        assert not used & {prompt["text"] for prompt in evaluation["prompts"]}
        assert [row["seed"] for row in evaluation["pictures"]] == list(range(1_000_000, 1_000_006))

    def test_of_calibration_are_rejected(self, tmp_path):
        (tmp_path / "mine.txt").write_text("a dog\na red circle on a white background\n")
        (tmp_path / "used.txt").write_text("a red circle on a white background\n")
        changes = {"prompts": str(tmp_path / "used.txt"), "evaluation_prompts": str(tmp_path / "mine.txt")}
        with pytest.raises(ValueError, match=r"^evaluation_prompts: 'a red circle on a white background' is a cali"):
            configuration.load(changes)
        with pytest.raises(ValueError, match=r"^evaluation_prompts: cannot read"):
            configuration.load({"evaluation_prompts": str(tmp_path / "absent.txt")})

    def test_whose_seeds_calibration_uses_are_rejected(self):
        with pytest.raises(ValueError, match=r"^evaluation_seed: the pictures use the seeds 255 to 4350, some of"):
            configuration.load({"evaluation_seed": 255})
        configuration.load({"evaluation_seed": 256})

    def test_of_a_file_are_repeated_over_the_pictures(self, tmp_path, sources, monkeypatch):
        (tmp_path / "mine.txt").write_text("a dog\na small cat\n")
        monkeypatch.setenv("WORKFLOW_EVALUATION_PROMPTS", str(tmp_path / "mine.txt"))
        evaluation = Evaluation(tmp_path, sources, evaluation_prompts=str(tmp_path / "mine.txt"))
        evaluation.prepare()
        written = read_json(tmp_path / "prompts.json")
        assert [row["prompt"] for row in written["pictures"]] == [0, 1] * 3
        seal = read_json(evaluation.generate("fp", "01"))
        assert seal["parameters"]["pictures"] == [[1, 1_000_001], [1, 1_000_003], [1, 1_000_005]]


class TestPictures:
    def test_say_what_they_are(self, finished):
        path = name_pictures(finished[0], "w4a8")[1]
        with Image.open(path) as image:
            about = dict(image.text)
        assert about["prompt"] == read_json(finished[0].folder / "prompts.json")["prompts"][1]["text"]
        assert [about[key] for key in ("seed", "variant", "steps", "cfg")] == ["1000001", "w4a8", "2", "3.0"]
        assert path.name == "0001000001.png"

    def test_are_the_same_after_an_interruption(self, copy):
        paths = name_pictures(copy, "w4a16")
        seal = paths[0].parent.with_suffix(".json")
        before, kept = seal.read_bytes(), paths[1].stat().st_mtime_ns
        paths[0].unlink()
        paths[2].write_bytes(paths[2].read_bytes()[:100])
        seal.unlink()
        copy.generate("w4a16", "00")
        assert seal.read_bytes() == before
        assert paths[1].stat().st_mtime_ns == kept

    def test_of_other_settings_are_drawn_again(self, copy):
        parameters = read_json(copy.folder / "generate_images.json")
        before = [path.read_bytes() for path in name_pictures(copy, "fp")]
        write_json(copy.folder / "generate_images.json", parameters | {"evaluation_steps": 3})
        copy.generate("fp", "00")
        assert all(a != path.read_bytes() for a, path in zip(before, name_pictures(copy, "fp"), strict=True))

    def test_of_an_earlier_and_larger_run_do_not_stay(self, copy):
        paths = name_pictures(copy, "fp")
        shutil.copy(paths[0], other := paths[0].with_name("0009999999.png"))
        shutil.copy(paths[0].with_suffix(".safetensors"), other.with_suffix(".safetensors"))
        copy.generate("fp", "00")
        assert name_pictures(copy, "fp") == paths
        assert not other.with_suffix(".safetensors").exists()

    def test_that_cannot_be_read_are_named(self, copy):
        path = name_pictures(copy, "fp")[0]
        path.write_bytes(b"no picture")
        with pytest.raises(UserError, match=f"{path.name} is missing or not what was drawn; delete .*00.json"):
            copy.extract("fp", "00", path.parent.with_suffix(".json"))
        (copy.folder / "mine").mkdir()
        (copy.folder / "mine" / "one.png").write_bytes(b"no picture")
        with pytest.raises(UserError, match=r"one\.png is not a readable picture"):
            copy.extract("real", "00", copy.folder / "mine")

    def test_of_a_folder_without_any_are_missed(self, copy):
        (copy.folder / "mine").mkdir()
        with pytest.raises(UserError, match="mine has no picture"):
            copy.extract("real", "00", copy.folder / "mine")

    def test_of_another_size_are_resized_and_counted(self, copy):
        (copy.folder / "mine").mkdir()
        for index in range(2):
            Image.new("L", (80 - index, 64)).save(copy.folder / "mine" / f"{index}.jpg")
        copy.extract("real", "00", copy.folder / "mine")
        assert read_tensors(copy.folder / "features" / "real" / "00.safetensors")["classifier"].shape == (1, 128)


class TestGrowth:
    def test_teacher_forcing_starts_as_free_running_and_stays_nearer(self, finished):
        growth = read_json(finished[0].folder / "growth" / "w4a8.json")["latent_snr"]
        assert growth["free_running"][0] == growth["teacher_forced"][0]
        assert np.median(growth["free_running"][1]) < np.median(growth["teacher_forced"][1])

    def test_ends_where_the_pictures_do(self, finished):
        evaluation, _ = finished
        growth = evaluation.follow("w4a8")["latent_snr"]["free_running"]
        (found, exact) = (read_latents(name_pictures(evaluation, name)[0]) for name in ("w4a8", "fp"))
        assert growth[-1][0] == pytest.approx(measure_snr(found, exact), abs=0.05)

    def test_full_precision_has_no_error(self, finished):
        growth = finished[0].follow("fp")["latent_snr"]
        assert growth == {"free_running": [[None] * 6] * 2, "teacher_forced": [[None] * 6] * 2}

    def test_is_the_same_where_memory_takes_one_picture_at_a_time(self, finished, monkeypatch):
        together = finished[0].follow("w4a8")["latent_snr"]["free_running"]
        monkeypatch.setattr(measure_growth, "choose_batch", lambda *sizes: 1)
        alone = finished[0].follow("w4a8")["latent_snr"]["free_running"]
        assert np.allclose(alone, together, atol=0.05)


class TestMemory:
    def test_that_does_not_suffice_is_said_before_anything_is_drawn(self, copy, monkeypatch):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: Namespace(total=10**6, available=10**6))
        shutil.rmtree(copy.folder / "images" / "fp")
        words = r"takes about .* GB of memory, of 0\.0 GB; lower height and width"
        with pytest.raises(UserError, match=f"drawing {words}"):
            copy.generate("fp", "00")
        with pytest.raises(UserError, match=f"measuring growth {words}"):
            copy.follow("w4a8")


class TestScores:
    def test_name_the_features_and_how_far_they_go(self, finished):
        scores = finished[1]
        assert scores["features"]["kind"] == "classifier"
        assert len(scores["features"]["weights_sha256"]) == 64
        assert "resize" in scores["features"]
        assert (scores["n"], scores["is_headline"], scores["reference"]["real"]["n"]) == (6, False, 24)
        assert "10,000" in scores["headline"]

    def test_full_precision_is_at_zero_from_itself_and_not_from_real_pictures(self, finished):
        exact = finished[1]["variants"]["fp"]
        assert exact["fid_to_full_precision"]["value"] == pytest.approx(0, abs=1e-6)
        assert exact["kid_to_full_precision"]["value"] == pytest.approx(0, abs=1e-6)
        assert exact["fid_to_real"]["value"] > 0.1

    def test_distances_are_those_of_the_features(self, finished):
        evaluation, scores = finished
        sets = [
            np.concatenate(
                [
                    read_tensors(evaluation.folder / "features" / name / f"{p}.safetensors")["classifier"]
                    for p in ("00", "01")
                ]
            )
            for name in ("w4a8", "real")
        ]
        assert scores["variants"]["w4a8"]["fid_to_real"]["value"] == pytest.approx(compute_fid(*sets))

    def test_pairs_are_those_of_the_files(self, finished):
        evaluation, scores = finished
        psnr = [
            measure_psnr(
                *(
                    np.array(Image.open(evaluation.folder / "images" / name / part / path.name))
                    for name in ("w4a8", "fp")
                )
            )
            for part in ("00", "01")
            for path in name_pictures(evaluation, "fp", part)
        ]
        measured = scores["variants"]["w4a8"]["paired"]["psnr_db"]
        assert measured["median"] == pytest.approx(np.median(psnr))
        assert measured["worst"] == pytest.approx(min(psnr))
        low, high = measured["interval_95"]
        assert low <= measured["median"] <= high

    def test_the_share_below_5_db_counts_latents(self, finished):
        evaluation, scores = finished
        for name, described in (*scores["variants"].items(), *scores["noise_floor"].items()):
            if name == "fp":
                continue
            ratios = [
                measure_snr(*(read_latents(path) for path in pair))
                for part in ("00", "01")
                for pair in zip(*(name_pictures(evaluation, of, part) for of in (name, "fp")), strict=True)
            ]
            share = described["paired"]["turns_out_otherwise"]
            assert share["value"] == pytest.approx(np.mean(np.array(ratios) < 5))
            assert share["interval_95"][0] <= share["value"] <= share["interval_95"][1]

    def test_activations_cost_more_than_weights_alone(self, finished):
        variants = finished[1]["variants"]
        snr = [variants[name]["paired"]["latent_snr_db"]["median"] for name in ("w4a16", "w4a8")]
        assert snr[0] > snr[1] > 0

    def test_other_seeds_are_the_noise_floor(self, finished):
        floor = finished[1]["noise_floor"]
        assert floor["fp_rerun"]["paired"]["ssim"]["median"] > 0.999
        other, quantized = floor["fp_other_seeds"]["paired"], finished[1]["variants"]["w4a16"]["paired"]
        assert other["latent_snr_db"]["median"] < quantized["latent_snr_db"]["median"]

    def test_prompt_accuracy_is_a_share_by_kind(self, finished):
        accuracy = finished[1]["variants"]["fp"]["prompt_accuracy"]
        assert accuracy["all"]["n"] == 6
        assert accuracy["all"]["value"] == pytest.approx(
            (accuracy["one_object"]["value"] + accuracy["two_objects"]["value"]) / 2
        )

    def test_are_headed_by_the_bits_saved_at_the_configured_size(self, copy, finished):
        assert finished[1]["bits_saved"] is None  # without a frontier
        saved = score_with_frontier(copy, build_frontier(), bits_per_weight=4.5)["bits_saved"]
        assert [saved[key] for key in ("asked", "n", "steps", "cfg")] == [4.5, 256, 2, 3]
        assert {name: way["median"]["value"] for name, way in saved["ways"].items()} == {"w_a16": 1.75, "w_a8": 1.35}
        assert saved["ways"]["w_a8"]["p5"]["interval_95"] == [1.5, 2.25]

    def test_reject_a_frontier_without_the_configured_size_or_of_another_guidance(self, copy):
        with pytest.raises(UserError, match=r"frontier\.json has no size of 4\.25 bits per weight; delete it"):
            score_with_frontier(copy, build_frontier(), bits_per_weight=4.25)
        with pytest.raises(UserError, match=r"frontier\.json was drawn with cfg 1\.5; delete it"):
            score_with_frontier(copy, build_frontier() | {"cfg": 1.5}, bits_per_weight=4.5)

    def test_reject_unequal_pairs(self, copy):
        path = copy.folder / "images" / "w4a8" / "01.json"
        shutil.copy(copy.folder / "images" / "w4a8" / "00.json", path)
        with pytest.raises(UserError, match=r"w4a8/01/\d+.png is missing or not what was drawn; delete .*w4a8/01.json"):
            copy.score()

    @pytest.mark.parametrize(("others", "own"), [("real", "w4a8"), ("fp", "real"), ("w4a16", "w4a8")])
    def test_reject_features_of_other_pictures(self, copy, others, own):
        for shard in copy.shards:
            shutil.copy(
                copy.folder / "features" / others / f"{shard}.safetensors",
                copy.folder / "features" / own / f"{shard}.safetensors",
            )
        words = rf"features/{own}/00\.safetensors has features of {others}, not {own}; delete it and run again"
        with pytest.raises(UserError, match=words):
            copy.score()

    def test_reject_features_of_the_same_variant_drawn_otherwise(self, copy):
        path = copy.folder / "features" / "w4a8" / "00.safetensors"
        arrays, about = read_sealed_tensors(path)
        write_sealed_tensors(path, arrays, about | {"origin": "0" * 64})
        with pytest.raises(UserError, match=r"features/w4a8 has features of other pictures than .*images/w4a8"):
            copy.score()

    def test_reject_too_few_real_pictures(self, copy):
        (copy.folder / "mine").mkdir()
        for index in range(2):
            Image.new("RGB", (64, 64)).save(copy.folder / "mine" / f"{index}.png")
        for shard in copy.shards:
            copy.extract("real", shard, copy.folder / "mine")
        with pytest.raises(UserError, match="2 pictures are too few"):
            copy.score()

    def test_reject_an_unreadable_picture(self, copy):
        path = name_pictures(copy, "w4a16")[0]
        path.write_bytes(b"no picture")
        with pytest.raises(UserError, match=f"{path.name} is missing or not what was drawn"):
            copy.score()

    @pytest.mark.parametrize("key", ["inception", "lpips"])
    def test_reject_missing_and_other_weights(self, copy, key):
        stage = {"inception": "extract_features", "lpips": "compare_variant"}[key]
        parameters = read_json(copy.folder / f"{stage}.json")

        def run(path):
            changed = parameters | {key: {"path": str(path), "sha256": "0" * 64}}
            write_json(copy.folder / f"{stage}.json", changed)
            copy.extract("real", "00", copy.folder / "reference") if key == "inception" else copy.score()

        with pytest.raises(UserError, match=f"^{key}: .*absent.pth is missing; put the weights there"):
            run(copy.folder / "absent.pth")
        (copy.folder / "other.pth").write_bytes(b"weights")
        with pytest.raises(UserError, match=f"^{key}: .*other.pth has the sha256"):
            run(copy.folder / "other.pth")

    def test_reject_a_folder_without_clip(self, copy):
        parameters = read_json(copy.folder / "extract_features.json")
        write_json(copy.folder / "extract_features.json", parameters | {"clip": str(copy.folder)})
        with pytest.raises(UserError, match=r"^clip: .* has no config\.json"):
            copy.extract("real", "00", copy.folder / "reference")


@pytest.mark.parametrize(
    ("stage", "entry", "key"),
    [
        ("write_evaluation_prompts", write_evaluation_prompts, "evaluation_prompts"),
        ("draw_reference", draw_reference, "reference_pictures"),
        ("extract_features", extract_features, "inception"),
    ],
)
def test_only_the_embedded_model_is_evaluated_without_files_of_the_users(tmp_path, stage, entry, key):
    config, prompts = configuration.load({"model": "sd3-medium"})
    write_json(tmp_path / "params.json", plan.select_parameters(stage, config, prompts))
    paths = {"params": tmp_path / "params.json", "out": tmp_path / "out", "pictures": tmp_path}
    with pytest.raises(UserError, match=f"^{key}: .*sd3-medium"):
        entry.main(Namespace(**paths, shard="00"))


def test_unknown_variants_are_rejected():
    with pytest.raises(ValueError, match=r"^evaluation_variants: w4a9 is unknown; did you mean w4a8"):
        configuration.load({"evaluation_variants": ["w4a9"]})


def test_rungs_of_the_ladder_can_be_evaluated():
    config, prompts = configuration.load({"evaluation_variants": ["w4a8_gptq"]})
    assert json.dumps(plan.select_parameters("score", config, prompts)).count("w4a8_gptq") == 1
