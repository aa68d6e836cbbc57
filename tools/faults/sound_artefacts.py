"""Small intact artefacts of every kind, as the entries write them, and the project's readers of each."""

import functools
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from taqmlx.checks.packed import find_problems
from taqmlx.mmdit.packed import bind_packed
from taqmlx.models import embedded
from taqmlx.numerics import schedule
from taqmlx.planning import configuration, plan
from taqmlx.planning.bit_choices import Choice
from taqmlx.planning.layers import list_linears
from taqmlx.planning.prompts import read_prompts
from taqmlx.planning.stages import CaptureParameters, CollectShard
from taqmlx.store import block_inputs, pictures, statistics_file
from taqmlx.store.block_file import read_block
from taqmlx.store.block_recorder import BlockRecorder
from taqmlx.store.calibration import open_calibration
from taqmlx.store.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from taqmlx.store.conditioning import open_conditioning
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, read_json, write_json, write_plain_json
from taqmlx.store.learning_state import read_learning, write_learning
from taqmlx.store.manifest import build_manifest, find_staleness, read_manifest, read_seals
from taqmlx.store.mixed_bits import identify_bits, overlay_bits, read_mixed_bits
from taqmlx.store.packed_checkpoint import open_packed, read_packed
from taqmlx.store.parameters import read_parameters
from taqmlx.store.picture_sets import read_set
from taqmlx.store.quant_config import read_quant_config
from taqmlx.store.safetensors_header import read_header
from taqmlx.store.sample_folder import Expected, find_folder_faults, find_manifest_faults
from taqmlx.store.seal import identify_work, make_seal
from taqmlx.store.sealed_job import SealedJob
from taqmlx.store.sensitivity_file import read_sensitivities, read_sensitivity_arrays
from taqmlx.store.statistics_merging import merge_shards
from taqmlx.store.tensors import write_sealed_tensors
from taqmlx.store.trajectories import find_faults, open_shard
from taqmlx.store.weight_costs import write_costs
from tools.faults.hostile import Artefact
from tools.small_results.exports import export, quantize
from tools.small_results.sensitivity import write_sensitivities
from tools.small_results.shards import build_finished, run_entry
from workflow_scripts.blocks import search_bits
from workflow_scripts.quant_config import write_quant_config
from workflow_scripts.tools import budget, write_import_config

MODEL, LAYERS = "embedded", list_linears(*plan.MODEL_BLOCKS["embedded"])
VARIANT = "w4a8"
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


def read_configuration(folder: Path) -> None:
    """What every planning does; `budget` reads the file as Snakemake does."""
    budget.read_configuration(Namespace(configfile=[folder / "config" / "my.json"], config=[]))


def read_prompt_files(folder: Path) -> None:
    for path in sorted(folder.glob("prompts.*")):
        try:
            read_prompts(path)
        except ValueError as error:
            raise UserError(str(error)) from None


def read_stage(folder: Path) -> CollectShard:
    """The parameters of the trajectories, which no hostile hand changes: they come from the configuration."""
    return read_parameters(CollectShard, folder / "params" / "collect_shard.json")


def read_trajectories(folder: Path) -> None:
    store, stage = folder / "trajectories.zarr", read_stage(folder)
    for _ in plan.find_conflicts(folder, stage):
        pass
    for name in plan.list_shards(stage):
        list(find_faults(store / name, plan.select_shard(stage, name).encode(), {}))
        shard = open_shard(store / name, {}, {})
        for row in range(shard.layout.rows):
            shard.read_trajectory(row)


def read_calibration(folder: Path) -> None:
    calibration = open_calibration(folder / "calibration.zarr")
    calibration.read_rows("xs", np.arange(2))
    calibration.verify()


def read_input_shard(folder: Path) -> None:
    inputs = block_inputs.open_block_inputs([folder / "00"])
    for index in range(5):
        inputs.read_block(index)
        inputs.read_targets(index)


def read_conditioning(folder: Path) -> None:
    conditioning = open_conditioning(folder / "conditioning.safetensors", read_stage(folder).encode())
    conditioning.read_shapes()
    conditioning.read([0, 1])


def read_packed_model(folder: Path) -> None:
    """What `generate` does before it draws: bind the layers, and multiply once."""
    config = read_quant_config(folder / "quant_config.json")
    transformer = load_transformer()
    linears = bind_packed(transformer, LAYERS, LAYERS, read_packed(config.weights.parent), config, "interpolated")
    mx.eval(linears.at(0.5)(LAYERS[8].name, mx.ones((1, 128))))


@functools.cache
def load_transformer() -> Any:
    return embedded.load_transformer()


def read_origins(folder: Path) -> None:
    """Write the quantization config again."""
    write_quant_config.main(
        Namespace(
            params=folder / "params" / "write_quant_config.json",
            statistics=folder / "activations" / "statistics.json",
            quantized=folder / "quantized",
            calibration=folder / "calibration.zarr",
            blocks=sorted((folder / "adaround").glob("*.safetensors")),
            out=folder / "quant_config.json",
        )
    )


def read_dataset(folder: Path) -> None:
    """What `import_samples` checks, and the configuration that `write_import_config` writes."""
    stage, exports = read_stage(folder), folder / "exports"
    sigmas = np.array(schedule.compute_sigmas(stage.steps, embedded.SAMPLER_SHIFT))
    expected = Expected(range(stage.trajectories), sigmas, embedded.LATENT_SHAPE)
    list(find_folder_faults(exports, expected, embedded.process_out))
    list(find_manifest_faults(read_manifest(exports / "manifest.json"), stage))
    write_import_config.main(Namespace(manifest=exports / "manifest.json", out=folder / "import.yaml"))


def read_own_manifest(folder: Path) -> None:
    stage = read_stage(folder)
    wanted = build_manifest(stage, read_seals(folder / "trajectories.zarr", stage))
    list(find_staleness(read_json(folder / "manifest.json"), wanted))


def read_statistics(folder: Path) -> None:
    path = folder / "activations" / "statistics.json"
    statistics_file.read_statistics_arrays(path, statistics_file.read_statistics(path))


def merge_statistics(folder: Path) -> None:
    merge_shards(sorted((folder / "activations" / "shards").glob("*.safetensors")))


def read_sensitivity(folder: Path) -> None:
    paths = sorted(folder.glob("*.json"))
    for path, content in zip(paths, read_sensitivities(paths, MODEL).values(), strict=True):
        read_sensitivity_arrays(path, content)


def read_weight_costs(folder: Path) -> None:
    """Choose bits by them."""
    named = {"params": folder / "search_bits.json", "costs": folder / "weight_costs.json"}
    search_bits.main(Namespace(out=folder / "mixed_bits.json", **named))


def read_chosen_bits(folder: Path) -> None:
    """What a block does: its rules with the bits that were chosen."""
    mixed = read_mixed_bits(folder / "mixed_bits.json")
    identify_bits(15.7, mixed)
    overlay_bits({layer.name: {"weight": {"bits": 4, "group_size": 64}} for layer in LAYERS}, mixed)


def read_pictures(folder: Path) -> None:
    found = read_set([folder / "images" / "00.json"], [folder / "features" / "00.safetensors"], VARIANT)
    found.read_pictures()
    found.read_latents()


# artefact: its folder, the files that are changed, and what reads it
READERS: dict[str, tuple[str, tuple[str, ...], Callable[[Path], Any]]] = {
    "configuration": ("settings", ("config/*",), read_configuration),
    "prompts": ("settings", ("prompts.*",), read_prompt_files),
    "trajectories": ("trajectories", ("trajectories.zarr/000/**/*",), read_trajectories),
    "calibration": ("calibration", ("**/*",), read_calibration),
    "block inputs": ("block inputs", ("**/*",), read_input_shard),
    "conditioning": ("conditioning", ("conditioning.*",), read_conditioning),
    "statistics": ("statistics", ("activations/statistics.*",), read_statistics),
    "parts of statistics": ("statistics", ("activations/shards/00.*",), merge_statistics),
    "block file": ("block file", ("adaround/mm_00.*",), lambda f: read_block(f / "adaround" / "mm_00.safetensors")),
    "packed weights": (
        "packed weights",
        ("quantized/*",),
        lambda f: find_problems(open_packed(f / "quantized"), None),
    ),
    "quantization config": ("quantization config", ("quant_config.*", "quantized/*"), read_packed_model),
    "its origins": ("origins", ("activations/statistics.*", "adaround/mm_00.*", "quantized/config.json"), read_origins),
    "imported dataset": ("imported dataset", ("exports/*.json", "exports/*/0000*.np*"), read_dataset),
    "manifest": ("manifest", ("manifest.json", "trajectories.zarr/000/zarr.json"), read_own_manifest),
    "sensitivity": ("sensitivity", ("mm_00.*",), read_sensitivity),
    "shard's checkpoint": ("states", ("checkpoint",), lambda f: read_checkpoint(f / "checkpoint")),
    "block's checkpoint": ("states", ("learning.*",), lambda f: read_learning(f / "learning.safetensors", "f")),
    "costs of weights": ("bits", ("weight_costs.json",), read_weight_costs),
    "chosen bits": ("bits", ("mixed_bits.json",), read_chosen_bits),
    "pictures": ("pictures", ("**/*",), read_pictures),
    "file header": (
        "quantization config",
        ("quantized/*.safetensors",),
        lambda f: read_header(f / "quantized" / "model.safetensors"),
    ),
}
