"""Small intact artefacts of every kind, as the entries write them, and the project's readers of each."""

import shutil
from pathlib import Path

import numpy as np

from taqmlx.planning import configuration, plan
from taqmlx.planning.bit_choices import Choice
from taqmlx.planning.stages import CaptureParameters
from taqmlx.store import pictures
from taqmlx.store.block_recorder import BlockRecorder
from taqmlx.store.checkpoint import Checkpoint, write_checkpoint
from taqmlx.store.files import hash_file, read_json, write_json, write_plain_json
from taqmlx.store.folds_file import Fold, write_folds
from taqmlx.store.learning_state import write_learning
from taqmlx.store.seal import identify_work, make_seal
from taqmlx.store.sealed_job import SealedJob
from taqmlx.store.tensors import write_sealed_tensors
from taqmlx.store.weight_costs import write_costs
from tools.faults.artefact_readers import LAYERS, MODEL, READERS, VARIANT, read_weight_costs
from tools.faults.hostile import Artefact
from tools.small_results.exports import export, quantize
from tools.small_results.sensitivity import write_sensitivities
from tools.small_results.shards import build_finished, run_entry

SEARCHED = [{"layers": "*", "bits": 16}, *({"layers": layer.name, "bits": 4} for layer in LAYERS[:2])]
SHAPES = {"calibration": "c", "model": {}, "image_shape": [2, 4], "text_shape": [3, 4]}


def build_artefacts(folder: Path) -> dict[str, Artefact]:
    """Every artefact by name, in folders of their own below `folder`."""
    complete = shutil.copytree(build_finished(), folder / "complete")
    run_entry(complete, "gather_calibration")
    quantize(complete)
    export(complete)
    record_input_shard(folder / "block inputs" / "00")
    write_sensitivities(folder / "sensitivity", [1.0, 0.5], lambda *_: [0.1, 0.2], lambda *_: 0.3)
    write_states(folder / "states")
    write_bits(folder / "bits")
    write_pictures(folder / "pictures")
    write_settings(folder / "settings")
    taken = {
        "trajectories": ("trajectories.zarr", "params"),
        "calibration": ("calibration.zarr",),
        "conditioning": ("conditioning.json", "conditioning.safetensors", "params"),
        "statistics": ("activations",),
        "block file": ("adaround",),
        "packed weights": ("quantized",),
        "quantization config": ("quant_config.json", "quant_config.safetensors", "quantized"),
        "origins": ("activations", "adaround", "quantized", "params", "calibration.zarr"),
        "imported dataset": ("exports", "params"),
        "manifest": ("manifest.json", "trajectories.zarr", "params"),
    }
    for name, parts in taken.items():
        for part in parts:
            copy(complete / part, folder / name / part)
    return {name: Artefact(folder / place, patterns, read) for name, (place, patterns, read) in READERS.items()}


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


def record_input_shard(path: Path) -> None:
    """A part of the blocks' inputs, of three points."""
    points = [0, 2, 4]
    parameters = CaptureParameters(
        model=MODEL, seed=0, capture_points=3, capture_shards=1, shard=path.name, points=points
    )
    job = SealedJob(path, path.parent.with_name("scratch"), parameters.encode(), SHAPES)
    by_point = {"sigmas": np.ones(3, np.float32), "steps": np.arange(3), "prompt_indices": np.arange(3)}
    rows = 2 * len(points)
    states = [(np.ones((rows, 2, 4), np.float32), np.ones((rows, 3, 4), np.float32)) for _ in range(5)]
    with job.hold():
        recorder = BlockRecorder(job)
        recorder.start(by_point)
        recorder.store_batch(np.ones((rows, 4), np.float32), iter([*states, (states[0][0], None)]))
        recorder.publish()


def write_states(folder: Path) -> None:
    """The checkpoints of a shard and of a block."""
    write_checkpoint(folder / "checkpoint", Checkpoint("f", 0, 4, ["0" * 64], np.ones((2, 8, 8, 16), np.float32)))
    arrays = {"alpha": np.ones(5, np.float32), "log_steps a": np.ones(1, np.float32)}
    write_learning(folder / "learning.safetensors", "f", {"phase": 1, "losses": [0.5]}, arrays)
    vector = np.array([1, 2, 4], np.float32)
    fold = Fold("mm_00.image.mlp.fc1", "scale", vector, 2 * vector, np.ones_like(vector), (0.5, 0.25))
    write_folds(folder / "folds.safetensors", [fold], {"stage": "fold_model"}, {"model": {}})


def write_bits(folder: Path) -> None:
    """What two layers cost in two widths, and the widths chosen by it."""
    config = configuration.complete({"weights": SEARCHED, "bits_per_weight": 15.7}, configuration.load_schema())
    for stage in ("measure_costs", "search_bits"):
        write_json(folder / f"{stage}.json", plan.select_parameters(stage, config, []))
    costs = {rule["layers"]: {Choice(2, 64): 0.5, Choice(4, 64): 0.25} for rule in SEARCHED[1:]}
    elements = {layer.name: 64 for layer in LAYERS}
    write_costs(folder / "weight_costs.json", read_json(folder / "measure_costs.json"), costs, elements, {"a": 3}, {})
    read_weight_costs(folder)


def write_pictures(folder: Path) -> None:
    """Two pictures with their latents, their seal, and their features."""
    rng, drawn = np.random.default_rng(0), folder / "images" / "00"
    for seed in (5, 6):
        about = {"prompt": "a red circle", "seed": seed}
        picture = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        pictures.write_picture(pictures.name_picture(drawn, seed), picture, np.ones((2, 2, 16), np.float32), about)
    pairs = [(path, path.with_suffix(".safetensors")) for path in drawn.glob("*.png")]
    digests = {path.name: [hash_file(path), hash_file(latents)] for path, latents in pairs}
    seal = make_seal({"variant": VARIANT, "pictures": [[0, 5], [1, 6]]}, {}, digests)
    write_json(folder / "images" / "00.json", seal)
    about = {"features": {"classifier": {"network": "n"}}, "pictures": 2, "resized": 0, "shard": "00", "set": VARIANT}
    features = {"classifier": np.ones((2, 8), np.float32), "values": np.ones((2, 3), np.int32)}
    write_sealed_tensors(folder / "features" / "00.safetensors", features, about | {"origin": identify_work(seal)})


def write_settings(folder: Path) -> None:
    """A configuration with every key the model reads, and files of prompts."""
    (folder / "config").mkdir(parents=True)
    unread = {key for keys in plan.MODEL_KEYS.values() for key in keys}
    config = configuration.complete({}, configuration.load_schema())
    write_plain_json(folder / "config" / "my.json", {key: config[key] for key in config if key not in unread})
    (folder / "prompts.txt").write_text("a red circle\nl'été\tun cercle 円\n", encoding="utf-8")
    (folder / "prompts.csv").write_text('id,prompt\n1,"a ""red"", circle"\n2,"a\nb"\n', encoding="utf-8")
