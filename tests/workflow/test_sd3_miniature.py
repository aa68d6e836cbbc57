"""From prompts to pictures of the quantized model: Stable Diffusion 3 Medium in miniature, without network.

Snakemake runs every job; DiffusionKit's own loaders read files of the real names and layout.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import zarr
from PIL import Image

from taqmlx.mmdit.sampling import sample
from taqmlx.models.diffusionkit import load_pipeline_module
from taqmlx.models.sd3 import MODELS
from taqmlx.models.weight_files import CHECKPOINT_REPO
from taqmlx.numerics.schedule import draw_noise
from taqmlx.planning.layers import list_linears
from taqmlx.reconstruction.variant_linears import bind_source
from taqmlx.store.files import read_json
from taqmlx.store.folds_file import read_folds
from tests.models.test_sd3 import TOLERANCE, measure_error
from tests.support.warm import start_warm_python
from tools.miniature import cache, sizes
from tools.miniature.run import CONFIG, PROMPTS, WIDEST, Run, call, draw, surround

pytestmark = [pytest.mark.slow, pytest.mark.whole]
# Of few inputs, as a search takes time.
FOLDS = [{"layers": "mm_00.*", "kind": "scale"}, {"layers": "mm_01.*fc2", "kind": "permutation"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Every job run once, and the same files at hand for this process."""
    with pytest.MonkeyPatch.context() as patch:
        hub = tmp_path_factory.mktemp("hub")
        cache.install(hub, cache.make_files(), patch)
        with start_warm_python(Path(), surround(hub)) as python:
            run = Run(tmp_path_factory.mktemp("miniature"), hub, python, folds=FOLDS)
            run.make("quant_config", "exports", "verify_dataset")
            yield run


def test_the_weights_are_found_in_the_cache_and_checked(run):
    files = {"sd3_medium.safetensors", "clip_g/model.fp16.safetensors", "t5-v1_1-xxl/spiece.model"}
    assert files <= set(read_json(run.results / "weights.json")["sha256"])


def test_recorded_trajectories_end_where_the_pipeline_ends(run):
    pipeline = load_pipeline_module().DiffusionPipeline(shift=3.0, low_memory_mode=False)
    shape = (CONFIG["height"] // 8, CONFIG["width"] // 8)
    for shard, prompt in enumerate(PROMPTS):
        group = zarr.open_group(run.results / "trajectories.zarr" / f"{shard:03d}", mode="r")
        condition = pipeline.encode_text(prompt, run.config["cfg_scale"], CONFIG["negative_prompt"])
        for found, seed in zip(group["latents"][:], group["seeds"][:].tolist(), strict=True):
            pipeline.load_mmdit()  # its adaLN layers are emptied by each picture
            wanted, _ = pipeline.denoise_latents(*condition, CONFIG["steps"], run.config["cfg_scale"], shape, seed)
            wanted = pipeline.latent_format.process_in(wanted)[0]
            assert measure_error(mx.array(found), wanted) <= TOLERANCE[mx.float32]


def test_the_calibration_set_has_the_prompts_encodings_and_its_own_latent_shape(run):
    group = zarr.open_group(run.results / "calibration.zarr", mode="r")
    assert group["xs"].shape == (CONFIG["trajectories"] * CONFIG["selected_steps"], 4, 6, 16)
    assert group["cs"].shape == (2, 2, 589, 4096)
    assert group["cs_pooled"].shape == (2, 2, 64)


def test_every_layer_of_all_blocks_is_observed_and_quantized(run):
    config = read_json(run.results / "quant_config.json")
    assert set(config["layers"]) == {layer.name for layer in list_linears(24, 0)}
    blocks = sorted(path.stem for path in (run.results / "adaround").glob("*.safetensors"))
    assert blocks == [*(f"mm_{i:02d}" for i in range(24)), "shared"]
    call("verify_weights", folder=run.results / "quantized", blocks=run.results / "adaround")


def test_every_layer_has_the_searched_bits(run):
    """But the one that a rule leaves unquantized."""
    config, found = (read_json(run.results / f"{name}.json") for name in ("quant_config", "mixed_bits"))
    assert set(found["mixed"]["layers"]) == set(config["layers"]) - {WIDEST}
    assert config["layers"][WIDEST]["weight"]["bits"] == 16
    for name, choice in found["mixed"]["layers"].items():
        assert {key: config["layers"][name]["weight"][key] for key in choice} == choice, name
    assert found["mixed"]["bits_per_weight"] <= run.config["bits_per_weight"]


def test_distillation_does_not_increase_the_held_out_error(run):
    report = read_json(run.results / "distilled.report.json")
    assert report["errors"][report["chosen"]] == min(report["errors"].values())


def test_the_rounding_of_a_block_is_learned(run):
    assert {"rtn", "gptq", "adaround"} == set(read_json(run.learn("mm_01"))["errors"])


def test_the_dataset_is_exported_and_everything_is_verified(run):
    exports = run.results / "exports"
    counts = {kind: len(list((exports / kind).glob("000*"))) for kind in ("samples", "latents", "images")}
    assert counts == {"samples": 3 * 4, "latents": 3, "images": 3}
    assert Image.open(exports / "images" / "0002.png").size == (48, 32)
    log = (run.results / "logs" / "verify_dataset.log").read_text()
    assert "all existing results pass" in log


def test_the_quantized_model_draws_nearly_the_same_picture(run, tmp_path):
    out = tmp_path / "picture.png"
    exact, quantized = (
        draw("sd3-medium", out),
        draw("sd3-medium", out, "--quant-config", run.results / "quant_config.json"),
    )
    assert exact.shape == quantized.shape == (32, 48, 3)
    assert 0 < np.abs(exact - quantized).mean() < 0.5 * exact.std()


def test_diffusionkit_draws_from_the_packed_folder_where_this_project_is_not_installed(run, tmp_path):
    """The folds are in the packed weights: neither the loader nor the model knows of them."""
    assert {fold.kind for fold in read_folds(run.results / "folds.safetensors").folds} == {"scale", "permutation"}
    run.make("quantized")
    folder = run.results / "quantized"
    shape, steps, cfg, seed = (4, 6), 2, 4.0, 5
    arguments = {
        "packages": sysconfig.get_path("purelib"),
        "folder": str(folder),
        "sizes": sizes.SD3,
        "autoencoder": sizes.AUTOENCODER,
        "prompt": PROMPTS[0],
        "negative": CONFIG["negative_prompt"],
        "steps": steps,
        "cfg": cfg,
        "shape": shape,
        "seed": seed,
        "out": str(tmp_path / "latents.npz"),
    }
    (tmp_path / "arguments.json").write_text(json.dumps(arguments))
    script = Path("tests/support/draw_without_project.py").resolve()
    offline = {"HF_HUB_CACHE": str(run.hub), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-S", str(script), str(tmp_path / "arguments.json")]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model = MODELS["sd3-medium"](CHECKPOINT_REPO, True, 8 * shape[0], 8 * shape[1], mx.float32)
    transformer = model.load_transformer()
    linear_at = bind_source(transformer, "weights", [folder / "model.safetensors", folder / "config.json"])
    encodings = [mx.repeat(part, 3, axis=0) for part in model.encode_prompts(PROMPTS[:1], CONFIG["negative_prompt"])]
    noise = draw_noise([seed, seed + 1, seed + 2], *model.LATENT_SHAPE)
    wanted = sample(transformer, linear_at, *encodings, noise, model.compute_sigmas(steps), cfg)
    with np.load(tmp_path / "latents.npz") as found:
        for name, latents in zip(found, wanted, strict=True):  # adaLN, then all was read again
            assert measure_error(mx.array(found[name])[0], latents) <= TOLERANCE[mx.float32], name


def test_the_model_runs_without_t5_from_a_local_folder_and_an_empty_cache(tmp_path):
    weights, hub = tmp_path / "weights", tmp_path / "empty"
    cache.write_folder(weights, cache.make_files())
    run = Run(tmp_path, hub, use_t5=False, weights_from=str(weights), trajectories=1)
    run.make("trajectories")
    assert not any("t5" in name.lower() for name in read_json(run.results / "weights.json")["sha256"])
    assert zarr.open_group(run.results / "trajectories.zarr" / "000", mode="r")["latents"].shape == (1, 4, 6, 16)
