"""The project's readers of every kind of file, called on the small artefacts of `sound_artefacts`."""

import functools
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
from taqmlx.planning import plan
from taqmlx.planning.layers import list_linears
from taqmlx.planning.prompts import read_prompts
from taqmlx.planning.stages import CollectShard
from taqmlx.store import block_inputs, statistics_file
from taqmlx.store.block_file import read_block
from taqmlx.store.calibration import open_calibration
from taqmlx.store.checkpoint import read_checkpoint
from taqmlx.store.conditioning import open_conditioning
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json
from taqmlx.store.folds_file import read_folds
from taqmlx.store.learning_state import read_learning
from taqmlx.store.manifest import build_manifest, find_staleness, read_manifest, read_seals
from taqmlx.store.mixed_bits import identify_bits, overlay_bits, read_mixed_bits
from taqmlx.store.packed_checkpoint import open_packed, read_packed
from taqmlx.store.parameters import read_parameters
from taqmlx.store.picture_sets import read_set
from taqmlx.store.quant_config import read_quant_config
from taqmlx.store.safetensors_header import read_header
from taqmlx.store.sample_folder import Expected, find_folder_faults, find_manifest_faults
from taqmlx.store.sensitivity_file import read_sensitivities, read_sensitivity_arrays
from taqmlx.store.statistics_merging import merge_shards
from taqmlx.store.trajectories import find_faults, open_shard
from workflow_scripts.blocks import search_bits
from workflow_scripts.quant_config import write_quant_config
from workflow_scripts.tools import budget, write_import_config

MODEL, LAYERS = "embedded", list_linears(*plan.MODEL_BLOCKS["embedded"])
VARIANT = "w4a8"


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
    "folds": ("states", ("folds.*",), lambda f: read_folds(f / "folds.safetensors")),
    "costs of weights": ("bits", ("weight_costs.json",), read_weight_costs),
    "chosen bits": ("bits", ("mixed_bits.json",), read_chosen_bits),
    "pictures": ("pictures", ("**/*",), read_pictures),
    "file header": (
        "quantization config",
        ("quantized/*.safetensors",),
        lambda f: read_header(f / "quantized" / "model.safetensors"),
    ),
}
