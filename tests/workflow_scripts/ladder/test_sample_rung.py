"""Ladder pictures from block files or packed files use the same noise and prompts."""

from argparse import Namespace

import numpy as np
import pytest

from taqmlx.models import embedded
from taqmlx.store.conditioning import write_conditioning
from taqmlx.store.files import write_json
from taqmlx.store.tensors import read_tensors
from tools.small_results.study import Study, write_calibration
from workflow_scripts.ladder import sample_rung

PROMPTS = ["a red circle", "a large blue square on a black background"]
PARAMETERS = {
    "stage": "sample_rung",
    "version": 1,
    "model": "embedded",
    "negative_prompt": "",
    "seed": 0,
    "cfg_scale": 3.0,
    "trajectories": 5,
    "ladder_pictures": 3,
    "ladder_steps": 3,
    "prompts": PROMPTS,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study whose packed weights and quantization config are made, and the prompts' encodings."""
    unrounded = [{"layers": "*", "bits": 16}]
    study = Study(tmp_path_factory.mktemp("study"), statistics_shards=1, activations=unrounded)
    write_calibration(study.calibration)
    study.finish()
    cs, cs_pooled = (np.array(part) for part in embedded.encode_prompts(PROMPTS))
    path = study.folder / "conditioning.safetensors"
    write_conditioning(path, PARAMETERS, embedded.file_digests(), zip(cs, cs_pooled, strict=True))
    return study


def sample(study, name, blocks=None, quant_config=None, **changes):
    params, out = study.folder / f"{name}.json", study.folder / name / "latents.safetensors"
    write_json(params, PARAMETERS | changes)
    conditioning = study.folder / "conditioning.safetensors"
    sample_rung.main(
        Namespace(
            params=params, conditioning=conditioning, blocks=blocks, quant_config=quant_config, out=out, folds=None
        )
    )
    return read_tensors(out)["latents"]


def test_pictures_are_repeatable_and_each_has_its_own_noise(study):
    first, again = (sample(study, name, quant_config=study.quant_config) for name in ("first", "again"))
    assert first.shape == (3, 8, 8, 16)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first[0] - first[2]).max() > 0.1  # one prompt, two seeds


def test_the_seeds_follow_those_of_the_trajectories(study):
    later = sample(study, "later", quant_config=study.quant_config, trajectories=6, ladder_pictures=1)
    prompts = sample(study, "swapped", quant_config=study.quant_config, ladder_pictures=2)
    assert np.abs(later[0] - prompts[0]).max() > 0.1


def test_blocks_and_packed_files_draw_the_same(study):
    """Without the layers of no block the last layer's modulation, which the paper's rules give 8 bits, is exact."""
    packed = sample(study, "packed", quant_config=study.quant_config)

    def compare(name, pattern):
        blocks = sorted((study.folder / "adaround").glob(f"{pattern}.safetensors"))
        return np.square(sample(study, name, blocks=blocks) - packed).sum() / np.square(packed).sum()

    assert compare("all", "*") < 1e-6
    assert 1e-6 < compare("blocks", "mm_*") < 1e-3
