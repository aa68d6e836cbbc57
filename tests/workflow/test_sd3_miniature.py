"""From prompts to pictures of the quantized model, on Stable Diffusion 3 Medium in miniature with no network."""

import mlx.core as mx
import numpy as np
import pytest
import zarr
from PIL import Image

from tests.miniature import cache
from tests.miniature.run import CONFIG, LEARNED, PROMPTS, Run, call
from tests.models.test_sd3 import TOLERANCE, measure_error
from workflow_scripts import generate
from workflow_scripts.mmdit.layers import list_linears
from workflow_scripts.models.diffusionkit import load_pipeline_module
from workflow_scripts.store.files import read_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Every entry run once."""
    with pytest.MonkeyPatch.context() as patch:
        cache.install(tmp_path_factory.mktemp("hub"), cache.make_files(), patch)
        run = Run(tmp_path_factory.mktemp("results"))
        run.collect()
        run.observe()
        run.quantize()
        yield run


def test_recorded_trajectories_end_where_the_pipeline_ends(run):
    pipeline = load_pipeline_module().DiffusionPipeline(shift=3.0, low_memory_mode=False)
    shape = (CONFIG["height"] // 8, CONFIG["width"] // 8)
    for shard, prompt in enumerate(PROMPTS):
        group = zarr.open_group(run.store / f"{shard:03d}", mode="r")
        condition = pipeline.encode_text(prompt, run.config["cfg_scale"], CONFIG["negative_prompt"])
        for found, seed in zip(group["latents"][:], group["seeds"][:].tolist(), strict=True):
            pipeline.load_mmdit()  # its adaLN layers are emptied by each picture
            wanted, _ = pipeline.denoise_latents(*condition, CONFIG["steps"], run.config["cfg_scale"], shape, seed)
            wanted = pipeline.latent_format.process_in(wanted)[0]
            assert measure_error(mx.array(found), wanted) <= TOLERANCE[mx.float32]


def test_the_calibration_set_has_the_prompts_encodings_and_its_own_latent_shape(run):
    group = zarr.open_group(run.calibration, mode="r")
    assert group["xs"].shape == (CONFIG["trajectories"] * CONFIG["selected_steps"], 4, 6, 16)
    assert group["cs"].shape == (2, 2, 589, 4096)
    assert group["cs_pooled"].shape == (2, 2, 64)


def test_every_layer_of_all_blocks_is_observed_and_quantized(run):
    config = read_json(run.folder / "quant_config.json")
    assert set(config["layers"]) == {layer.name for layer in list_linears(24, 0)}
    assert sorted(path.stem for path in run.blocks) == [f"mm_{i:02d}" for i in range(24)]
    report = read_json(run.folder / "adaround" / f"{LEARNED}.report.json")
    assert {"rtn", "gptq", "adaround"} == set(report["errors"])
    call("verify_weights", folder=run.folder / "quantized", blocks=run.folder / "adaround")


def test_the_quantized_model_draws_nearly_the_same_picture(run, tmp_path):
    def draw(*options):
        out = tmp_path / "picture.png"
        common = ["--model", "sd3-medium", "--size", 32, "--steps", 2, "--prompt", PROMPTS[0], "--out", out]
        generate.main(generate.build_arguments().parse_args([str(option) for option in (*common, *options)]))
        return np.array(Image.open(out)).astype(int)

    exact, quantized = draw(), draw("--quant-config", run.folder / "quant_config.json")
    assert exact.shape == quantized.shape == (32, 32, 3)
    assert 0 < np.abs(exact - quantized).mean() < 0.5 * exact.std()
