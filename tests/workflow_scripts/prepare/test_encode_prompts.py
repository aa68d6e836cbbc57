"""Prompts are encoded once and in order."""

from dataclasses import replace

import numpy as np
import pytest

from taqmlx.models import embedded
from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard
from taqmlx.store.conditioning import open_conditioning
from taqmlx.store.errors import UserError
from taqmlx.store.parameters import read_parameters
from tools.small_results.shards import PROMPTS, build_finished, list_arguments, prepare
from workflow_scripts.prepare import encode_prompts


def test_encodings_are_those_of_the_model_in_prompt_order():
    conditioning = open_conditioning(build_finished() / "conditioning.safetensors", {"prompts": PROMPTS})
    for found, wanted in zip(conditioning.read([0, 1, 2]), embedded.encode_prompts(PROMPTS, ""), strict=True):
        assert found.dtype == np.float32
        assert np.array_equal(found, np.array(wanted))
    assert conditioning.weights == embedded.file_digests()


def test_the_negative_prompt_is_the_second_of_each_pair(tmp_path):
    prepare(tmp_path, negative_prompt=PROMPTS[0])
    cs, _ = open_conditioning(tmp_path / "conditioning.safetensors", {"negative_prompt": PROMPTS[0]}).read([0, 1])
    np.testing.assert_allclose(cs[0, 0], cs[1, 1], atol=1e-5)  # a row's last bits depend on those it is encoded with
    assert np.abs(cs[1, 0] - cs[1, 1]).max() > 0.1


def test_dropped_text_is_reported_once(tmp_path, caplog):
    prepare(tmp_path, ["three purple dragons", "red circle " * 360, "a red circle"], negative_prompt="blurred")
    (line,) = [record.message for record in caplog.records if "dropped text" in record.message]
    assert line == (
        "dropped text: beyond the 18 words of the text encoder in 1 of 4 prompts (up to 720);"
        " unknown words in 2 of 4 prompts (blurred, dragons, three)"
    )


def test_equal_prompts_give_equal_files(tmp_path):
    prepare(tmp_path)
    for name in ("conditioning.safetensors", "conditioning.json"):
        assert (tmp_path / name).read_bytes() == (build_finished() / name).read_bytes()


def test_the_seal_must_be_beside_the_file(tmp_path):
    arguments = list_arguments(build_finished(), "encode_prompts") | {"seal": tmp_path / "conditioning.json"}
    with pytest.raises(UserError, match="--seal"):
        encode_prompts.main(encode_prompts.argparse.Namespace(**arguments))


def test_the_seals_of_shards_match_the_plan():
    stage = read_parameters(CollectShard, build_finished() / "params" / "collect_shard.json")
    assert list(plan.find_conflicts(build_finished(), stage)) == []
    changed = replace(stage, seed=4)
    assert all("seed: 3 there, 4" in line for line in plan.find_conflicts(build_finished(), changed))
