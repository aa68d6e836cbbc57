"""A small set of trajectories of the embedded model, made once, and copies of it to damage."""

import atexit
import functools
import hashlib
import importlib
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from taqmlx.planning import plan
from taqmlx.store.files import write_json
from tools.commands import find_module

PROMPTS = ['a "small" red circle', "l'été\tun cercle 円", 'a "small" red circle']
CONFIG = {
    "model": "embedded",
    "negative_prompt": "",
    "trajectories": 7,
    "steps": 5,
    "selected_steps": 3,
    "seed": 3,
    "cfg_scale": 1.5,
    "prompts_per_shard": 2,
    "batch_size": 2,
    "checkpoint_every": 2,
}
STAGES = ("encode_prompts", "collect_shard", "gather_calibration")
SHARDS = ("000", "001")


def write_parameters(folder: Path, prompts: Sequence[str] = PROMPTS, **changes) -> None:
    """The parameter files of all stages, with `changes` to the configuration."""
    config = CONFIG | changes
    for stage in STAGES:
        path = folder / "params" / f"{stage}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, plan.select_parameters(stage, config, prompts))


def list_arguments(folder: Path, name: str, shard: str = "000") -> dict[str, Path | str]:
    """The arguments of the entry `name`, by option."""
    store, conditioning = folder / "trajectories.zarr", folder / "conditioning.safetensors"
    params = {stage: folder / "params" / f"{stage}.json" for stage in STAGES}
    return {
        "encode_prompts": {
            "params": params["encode_prompts"],
            "out": conditioning,
            "seal": folder / "conditioning.json",
        },
        "create_store": {"out": store / "zarr.json", "store": store},
        "collect_shard": {
            "params": params["collect_shard"],
            "conditioning": conditioning,
            "shard": shard,
            "out": store / shard,
            "scratch": folder / "scratch" / shard,
            "receipt": store / shard,
        },
        "verify_trajectories": {
            "params": params["collect_shard"],
            "conditioning": conditioning,
            "trajectories": store,
        },
        "gather_calibration": {
            "params": params["gather_calibration"],
            "conditioning": conditioning,
            "trajectories": store,
            "out": folder / "calibration.zarr",
        },
        "export_npz": {"calibration": folder / "calibration.zarr", "out": folder / "DiT_cali_data.npz"},
    }[name]


def run_entry(folder: Path, name: str, shard: str = "000", **options) -> None:
    """Run an entry in this process, with other `options` if need be."""
    arguments = list_arguments(folder, name, shard) | options
    importlib.import_module(find_module(name)).main(Namespace(**arguments))


def prepare(folder: Path, prompts: Sequence[str] = PROMPTS, **changes) -> Path:
    """A folder with parameters, encoded prompts and an empty store."""
    write_parameters(folder, prompts, **changes)
    run_entry(folder, "encode_prompts")
    run_entry(folder, "create_store")
    return folder


@functools.cache
def build_finished() -> Path:
    """A folder with every shard finished; made once and not to be changed."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    prepare(folder)
    for shard in SHARDS:
        run_entry(folder, "collect_shard", shard)
    return folder


def copy_finished(folder: Path) -> Path:
    """A copy to do with as one likes."""
    return shutil.copytree(build_finished(), folder / "results")


def hash_tree(folder: Path) -> dict[str, str]:
    """sha256 of every file in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
