"""Layer inputs of models are compared with those of Stable Diffusion 3 Medium."""

import numpy as np
import pytest

from taqmlx.planning.layers import list_linears
from taqmlx.planning.plan import MODEL_BLOCKS
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, read_json, write_json
from taqmlx.store.statistics_file import FORMAT, SCHEMA
from taqmlx.store.tensors import write_tensors
from workflow_scripts.tools import compare_inputs

PER_STEP = SCHEMA["properties"]["inputs"]["additionalProperties"]["properties"]["per_step"]["required"]


def compare(out, *statistics):
    words = ["--out", str(out), "--statistics", *map(str, statistics)]
    compare_inputs.main(compare_inputs.build_arguments().parse_args(words))
    return read_json(out, format="inputs-compared")["models"]


def test_every_input_of_stable_diffusion_3_is_known():
    known = compare_inputs.read_plain_json(compare_inputs.REFERENCE)["inputs"]
    inputs = {
        layer.input for layer in list_linears(*MODEL_BLOCKS["sd3-medium"]) if layer.role not in ("adaLN", "embedder")
    }
    assert known.keys() == inputs | {"context_embedder"}
    assert all(values["absmax"] > 0 and values["spread"] >= 1 for values in known.values())


def write_statistics(path, model):
    """Statistics of one input of three channels at two steps: the last channel is always on."""
    minimum = np.array([[-1, -2, 30], [-2, -1, 35]], np.float32)
    maximum = np.array([[1, 1, 40], [1, 2, 50]], np.float32)
    arrays = {"minimum": minimum, "maximum": maximum, "mean": (minimum + maximum).astype(np.float64) / 2}
    path.parent.mkdir()
    write_tensors(
        path.with_suffix(".safetensors"), {f"mm_00.text.mlp.fc1/{key}": value for key, value in arrays.items()}
    )
    about = {"file": "statistics.safetensors", "sha256": hash_file(path.with_suffix(".safetensors"))}
    per_step = {key: [0.0, 0.0] for key in PER_STEP} | {"absmax": [40.0, 50.0]}
    inputs = {"mm_00.text.mlp.fc1": {"layers": ["mm_00.text.mlp.fc1"], "per_step": per_step}}
    shared = {"steps": [0, 1], "sigmas": [1.0, 0.5], "arrays": about, "origin": {"calibration": ""}}
    write_json(path, FORMAT | shared | {"model": model, "inputs": inputs})
    return path


def test_models_are_measured_and_drawn_beside_it(tmp_path):
    easy, hard = (write_statistics(tmp_path / name / "statistics.json", name) for name in ("easy", "hard"))
    found = compare(tmp_path / "out" / "inputs.json", easy, hard)
    assert set(found) == {"sd3-medium", "easy", "hard"}
    assert found["hard"]["mm_00.text.mlp.fc1"] == {"absmax": 50, "drift": 1.25, "spread": 25, "offset": 0.775}
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"inputs.json", "inputs.png", "inputs.svg"}
    with pytest.raises(UserError, match="is of the model hard, as another file is"):
        compare(tmp_path / "out" / "inputs.json", hard, hard)
