"""The presets of Stable Diffusion 3 Medium plan their jobs without loading or downloading anything."""

import subprocess
from collections import Counter

import pytest


def count_jobs(python, results, *arguments, **values):
    """How many jobs of each rule a dry run would execute."""
    command = [python, "-m", "snakemake", "quant_config", *arguments, "-n", "--quiet", "rules"]
    shown = subprocess.run(
        [*command, "--config", f"results_dir={results}", *(f"{key}={value}" for key, value in values.items())],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout
    table = shown.partition("\ntotal ")[0]
    pairs = [words for words in map(str.split, table.splitlines()) if len(words) == 2 and words[1].isdigit()]
    return Counter({rule: int(count) for rule, count in pairs})


@pytest.mark.slow
def test_the_preset_fetches_once_and_has_a_job_for_each_prompt_and_block(python, tmp_path):
    jobs = count_jobs(python, tmp_path / "results", "--configfile", "config/sd3-medium.yaml")
    assert jobs["fetch_weights"] == jobs["encode_prompts"] == 1
    assert (jobs["collect_shard"], jobs["optimise_block"]) == (64, 24)
    assert [jobs[rule] for rule in ("measure_costs", "search_bits", "round_shared", "distil")] == [1] * 4
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "shards"), [("sd3-medium-512", 64), ("calibration-1000", 16)])
def test_the_presets_of_512_pixels_can_be_planned(preset, shards, python, tmp_path):
    jobs = count_jobs(python, tmp_path / "results", "exports", "--configfile", f"config/{preset}.yaml")
    assert (jobs["collect_shard"], jobs["optimise_block"], jobs["write_quant_config"]) == (shards, 24, 1)
    assert jobs["decode_latents"] == jobs["export_samples"] == 1  # pictures for an FID


@pytest.mark.slow
def test_a_thousand_prompts_of_one_trajectory_each_share_jobs(python, tmp_path):
    prompts = tmp_path / "captions.csv"
    prompts.write_text("caption\n" + "".join(f"a picture of {i} things\n" for i in range(1000)))
    preset = ("--configfile", "config/calibration-1000.yaml")
    assert count_jobs(python, tmp_path / "results", *preset, prompts=prompts)["collect_shard"] == 63


@pytest.mark.slow
def test_the_embedded_model_downloads_nothing(python, tmp_path):
    assert "fetch_weights" not in count_jobs(python, tmp_path / "results")
