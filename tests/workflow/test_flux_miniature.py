"""From prompts to pictures of the quantized model: FLUX.1-schnell in miniature, without network and guidance.

Snakemake runs every job; DiffusionKit's own loaders read files of the real names and layout.
"""

import numpy as np
import pytest
import zarr

from taqmlx.planning import plan
from taqmlx.planning.layers import list_linears
from taqmlx.store.block_inputs import open_block_inputs
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.sensitivity_file import read_sensitivity
from tests.support.flux_run import run_flux
from tools.miniature.run import PROMPTS, call, draw

pytestmark = [pytest.mark.slow, pytest.mark.whole]
LEARNED = ("mm_18", "uni_07")  # the last multimodal block, and a unified one


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Every job run once, and the same files at hand for this process."""
    with run_flux(tmp_path_factory) as run:
        yield run


def test_every_prompt_has_one_condition_and_every_point_one_row(run):
    group = zarr.open_group(run.results / "calibration.zarr", mode="r")
    inputs = open_block_inputs([run.results / "block_inputs.zarr" / "00"])
    assert group["xs"].shape == (4, 4, 6, 16)
    assert (group["cs"].shape, group["cs_pooled"].shape) == ((2, 1, 256, 4096), (2, 1, 24))
    assert inputs.negative.tolist() == [0] * 4
    assert sorted(inputs.points.tolist()) == list(range(4))
    image, text = inputs.read_block(0)
    assert (image.shape, text.shape) == ((4, 6, 64), (4, 256, 64))


def test_a_unified_block_is_a_target_like_the_others(run):
    blocks = sorted(path.stem for path in (run.results / "adaround").glob("*.safetensors"))
    assert blocks == sorted(plan.list_units("flux-schnell"))
    for name in LEARNED:
        assert {"rtn", "gptq", "adaround"} == set(read_json(run.learn(name))["errors"])
    config = read_json(run.results / "quant_config.json")
    assert set(config["layers"]) == {layer.name for layer in list_linears(19, 38)}
    for part, bits in (("attn.q_proj", 4), ("attn.o_proj", 6), ("mlp.fc1", 4), ("mlp.fc2", 4)):
        layer = config["layers"][f"uni_07.unified.{part}"]
        assert (layer["weight"]["bits"], layer["activation"]["bits"]) == (bits, 8)
    call("verify_weights", folder=run.results / "quantized", blocks=run.results / "adaround")


def test_rounding_costs_are_measured_in_a_unified_block(run, tmp_path):
    out, params = tmp_path / "uni_36.json", tmp_path / "params.json"
    write_json(params, plan.select_parameters("measure_sensitivity", run.config, PROMPTS))
    rows = [run.results / "block_inputs.zarr" / "00"]
    call(
        "measure_sensitivity",
        params=params,
        block="uni_36",
        inputs=rows,
        out=out,
        folds=run.results / "folds.safetensors",
    )
    content = read_sensitivity(out)
    assert set(content["gains"]) == {"image", "text"}
    assert len(content["weights"]) == 7  # with the modulation
    assert sorted(len(reader["layers"]) for reader in content["inputs"].values()) == [1, 1, 4]


def test_every_recorded_step_can_be_replayed(run):
    log = (run.results / "logs" / "verify_dataset.log").read_text()
    assert "all existing results pass" in log


def test_the_quantized_model_draws_nearly_the_same_picture(run, tmp_path):
    out = tmp_path / "picture.png"
    exact, quantized = (
        draw("flux-schnell", out),
        draw("flux-schnell", out, "--quant-config", run.results / "quant_config.json"),
    )
    assert exact.shape == quantized.shape == (32, 48, 3)
    assert 0 < np.abs(exact - quantized).mean() < 0.5 * exact.std()
    with pytest.raises(UserError, match="draws without guidance"):
        draw("flux-schnell", out, "--cfg", 3)
    with pytest.raises(UserError, match="draws without guidance"):
        draw("flux-schnell", out, "--negative-prompt", "blur")
