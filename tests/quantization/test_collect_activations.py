"""Observation of the layer inputs of the embedded model."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import zarr

from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.observations import unpack_observations
from taqmlx.numerics.sketch import POINTS_PER_STEP
from taqmlx.planning import plan
from taqmlx.planning.configuration import complete, load_schema
from taqmlx.planning.layers import list_linears
from taqmlx.planning.stages import CollectActivations
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json, write_json
from taqmlx.store.seal import read_file_seal, read_group_seal
from taqmlx.store.tensors import read_tensors
from tools.small_results.study import STEPS, seal_calibration
from workflow_scripts.activations.collect_activations import choose_share, choose_sketched


def read_slowly(points):
    """What every linear input is at each step: one forward per point and half, (inputs, steps) to all rows (N, D)."""
    transformer = find_model("embedded").load_transformer()
    linear = bind_linears(transformer)
    layers = {layer.name: layer for layer in list_linears(*plan.MODEL_BLOCKS["embedded"])}
    rows = {}
    for point, step in enumerate(points["steps"]):
        for half in (0, 1):

            def keep(name, x, step=step, half=half):
                layer = layers[name]
                if name in (layer.input, f"{layer.input[:-3]}q_proj", "mm_00.image.adaLN_modulation"):
                    flat = np.array(x).reshape(-1, x.shape[-1])
                    rows.setdefault((layer.input, int(step)), []).append(flat)
                return linear(name, x)

            prompt = points["prompt_indices"][point]
            latents = mx.array(points["xs"][point : point + 1].astype(np.float32))
            conditions = (mx.array(points[key][prompt, half][None]) for key in ("cs", "cs_pooled"))
            timesteps = mx.array(points["ts"][point : point + 1])
            mx.eval(predict_velocity(transformer, keep, latents, *conditions, timesteps, mx.array([0])))
    return {key: np.concatenate(parts) for key, parts in rows.items()}


@pytest.fixture(scope="module")
def slow(points):
    return read_slowly(points)


def read_parts(study):
    return [unpack_observations(read_tensors(part)) for part in study.list_shards()]


def test_every_layer_input_is_observed_once_and_qkv_share_one(finished):
    inputs = {layer.input for layer in list_linears(*plan.MODEL_BLOCKS["embedded"])}
    for part in read_parts(finished):
        assert set(part) == inputs
    assert "mm_00.image.attn.qkv" in inputs
    assert len(inputs) == 44


def test_shards_hold_the_inputs_of_one_forward_per_point(finished, slow):
    parts = read_parts(finished)
    assert {name for name, _ in slow} == set(parts[0])
    for (name, step), rows in slow.items():
        place = STEPS.index(step)
        found = [part[name][place].channels for part in parts]
        scale = np.abs(rows).max()
        assert sum(part.rows for part in found) == len(rows)
        np.testing.assert_allclose(
            np.min([part.minimum for part in found], axis=0), rows.min(axis=0), atol=1e-4 * scale
        )
        np.testing.assert_allclose(
            np.max([part.maximum for part in found], axis=0), rows.max(axis=0), atol=1e-4 * scale
        )
        total = sum(part.mean * part.rows for part in found) / len(rows)
        np.testing.assert_allclose(total, rows.mean(axis=0), atol=1e-5 * scale)


def test_the_points_of_the_sketches_are_few_of_each_step_and_the_same_for_any_shards():
    steps = np.random.default_rng(0).permutation(np.repeat([0, 5, 9], 100))
    config = complete({"statistics_points": 150, "statistics_shards": 3}, load_schema())
    observing = plan.select_stage(CollectActivations, config, [])
    shares = [choose_share(steps, [0, 9], observing, shard) for shard in ("00", "01", "02")]
    sketched = choose_sketched(steps, [0, 9], observing)
    assert sketched.tolist() == choose_sketched(steps, [0, 9], replace(observing, statistics_shards=1)).tolist()
    assert np.isin(sketched, np.concatenate(shares)).all()
    assert np.bincount(steps[sketched]).tolist() == [POINTS_PER_STEP, *[0] * 8, POINTS_PER_STEP]
    few = replace(observing, statistics_points=10)
    assert len(choose_sketched(steps, [0, 9], few)) == 10


def test_a_second_run_gives_the_same_bytes(finished, tmp_path):
    part = finished.list_shards()[1]
    again = tmp_path / part.name
    finished.collect(again)
    assert again.read_bytes() == part.read_bytes()
    assert again.with_suffix(".json").read_bytes() == part.with_suffix(".json").read_bytes()


def test_the_seal_names_the_inputs_of_the_shard(finished):
    seal = read_file_seal(finished.list_shards()[0].with_suffix(".json"))
    assert seal["parameters"]["shard"] == "00"
    assert [step for step, _ in seal["parameters"]["sigmas"]] == STEPS
    assert set(seal["inputs"]) == {"calibration", "model"}


def test_more_shards_than_points_leave_empty_shards(study):
    study.configure(statistics_shards=7, statistics_points=3, statistics_steps=2)
    parts = study.list_shards()
    for part in parts:
        study.collect(part)
    study.merge()
    assert read_tensors(parts[-1]) == {}


def test_fewer_points_than_steps_are_rejected(study):
    params = study.params("collect_activations")
    write_json(params, read_json(params) | {"statistics_points": 2})
    with pytest.raises(UserError, match="statistics_points: 2 is too few for 3 steps; set it to 3 or more"):
        study.collect(study.list_shards()[0])


def test_a_non_finite_value_is_named(study, points):
    group = zarr.open_group(study.calibration)
    bad = int(np.flatnonzero(points["steps"] == 3)[0])
    group["xs"][bad, 0, 0, 0] = np.nan
    seal_calibration(study.calibration, read_group_seal(study.calibration)["inputs"])
    study.configure(statistics_shards=1)
    with pytest.raises(UserError, match=rf"mm_00.image.attn.q_proj .* not finite at step 3, calibration point {bad};"):
        study.collect(study.list_shards()[0])


def test_a_changed_calibration_set_is_rejected(study):
    zarr.open_group(study.calibration)["xs"][0] = 0
    with pytest.raises(UserError, match="xs does not match its seal"):
        study.collect(study.list_shards()[0])


def test_an_unknown_shard_is_rejected(finished, tmp_path):
    with pytest.raises(UserError, match="--shard 02: no such shard; choose one from 00 to 01"):
        finished.collect(tmp_path / "02.safetensors")
