"""The commands of the original programs run one after the other on a dataset of two pictures."""

import re
import subprocess

import numpy as np
import pytest
import yaml
from PIL import Image

from taqmlx.store.files import read_json, read_plain_json

pytestmark = [pytest.mark.slow, pytest.mark.whole]

# What takes minutes and has no option of the originals: no searches, little distillation.
SMALL = {
    "weights": [{"layers": "*", "bits": 4, "range": "absmax"}],
    "bits_per_weight": None,
    "folds": [],
    "capture_shards": 1,
    "statistics_shards": 1,
    "distil_iterations": 2,
    "distil_batch": 2,
}


@pytest.fixture
def call(python):
    """call(line): run a command; what it says. Fails unless it ends with 0 and names the current command."""

    def run(line):
        command = [python, "-m", *f"src.{line}".split()]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
        assert done.returncode == 0, done.stdout
        assert re.search(r"^(snakemake --cores 1|python -m workflow_scripts\.)", done.stdout, re.M)
        return done.stdout

    return run


def test_from_trajectories_to_a_picture(call, tmp_path):
    folder = tmp_path / "calibration_data"
    calib, stats = f"--calib-dir {folder}", f"--stats {folder}/activations/layer_statistics.json"
    weights, drawn, base = (tmp_path / name for name in ("quantized_weights", "drawn.png", "base.yaml"))
    base.write_text(yaml.safe_dump(SMALL))

    call(f"generate_calibration_data --num-images 2 --num-steps 4 {calib} --configfile {base}")
    assert len(list((folder / "samples").glob("000?_00?.npz"))) == 2 * 5
    assert np.load(folder / "latents" / "0001.npy").shape == (1, 8, 8, 16)
    assert read_json(folder / "manifest.json")["n_completed"] == len(list((folder / "images").glob("*.png"))) == 2

    call(f"collect_layer_activations {calib} --num-images 1 --stride 2")
    call(f"analyze_activations {stats}")
    assert read_json(folder / "adaround" / "mm_00.json")["parameters"]["engine"] == "gptq"
    config = folder / "activations" / "quant_config.json"
    call(f"load_adaround_model --quant-config {config} --num-steps 4 --output-image {drawn} --compare")
    assert Image.open(drawn).width > 128

    call(f"adaround_optimize --adaround-cache {folder}/adaround_cache --output {weights} --iters 2 --batch-size 2")
    assert read_json(folder / "adaround" / "mm_00.json")["parameters"]["engine"] == "adaround"
    call(f"load_adaround_model --adaround-output {weights} --num-steps 4 --output-image {drawn} --diff-stats")
    assert Image.open(drawn).size == (64, 64)
    call(f"analyze_activations {stats} --export-config {tmp_path}/advice.json")
    assert read_plain_json(tmp_path / "advice.json")["legacy"] is True

    assert "| ok" in call(f"verify_calibration {calib}")
    (folder / "manifest.json").unlink()
    call(f"rebuild_manifest {calib}")
    assert read_json(folder / "manifest.json")["n_completed"] == 2
    call(f"decode_latents {calib}")
