"""A block captured at few points, and its job run as the rule runs it."""

import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from mlx.utils import tree_flatten

from taqmlx.models.catalogue import find_model
from taqmlx.planning import configuration, plan
from taqmlx.planning.block_plan import select_block
from taqmlx.planning.layers import list_linears
from taqmlx.store.files import read_json, write_json
from tests.support.kill_block import list_arguments
from tools.small_results import study as small
from tools.small_results.presets import PAPER
from workflow_scripts.blocks import capture_blocks, optimise_block

# 12 points captured at 3 steps, the 4 of one of three prompts held out: 16 rows to learn from and 8 that measure.
SETTINGS = {
    "selected_steps": 3,
    "capture_points": 12,
    "held_out": 0.17,
    "adaround_iterations": 6,
    "adaround_batch": 4,
    "adaround_rate": 0.03,
    "adaround_checkpoint_every": 2,
}
TRIED = {"rtn": ["rtn"], "gptq": ["rtn", "gptq"], "adaround": ["rtn", "gptq", "adaround"]}


def select(stage: str, **changes) -> plan.Parameters:
    config = configuration.complete(PAPER | SETTINGS | changes, configuration.load_schema())
    return plan.select_parameters(stage, config, [])


def configure(folder: Path, block: str = "mm_00", **changes) -> plan.Parameters:
    parameters = select_block(select("optimise_block", **changes), block)
    write_json(folder / "params.json", parameters)
    return parameters


def quantize(
    folder: Path,
    block: str = "mm_00",
    before: tuple[str, ...] = (),
    replace: bool = False,
    mixed: Path | None = None,
    **changes,
) -> Path:
    """Run the entry; the block's file."""
    configure(folder, block, **changes)
    paths = [folder / "adaround" / f"{name}.safetensors" for name in before]
    arguments = list_arguments(folder, block, before=paths, replace=replace, mixed=mixed)
    optimise_block.main(arguments)
    return arguments.out


def read_report(path: Path) -> dict:
    return read_json(path.with_suffix(".report.json"))


@pytest.fixture(scope="session")
def captured(tmp_path_factory) -> Path:
    """A folder with captured inputs; not to be changed."""
    folder = tmp_path_factory.mktemp("captured")
    small.write_calibration(folder / "calibration.zarr")
    write_json(folder / "capture.json", select("capture_blocks"))
    for shard in ("00", "01"):
        out, scratch = folder / "block_inputs.zarr" / shard, folder / "capturing" / shard
        named = {"params": folder / "capture.json", "calibration": folder / "calibration.zarr"}
        capture_blocks.main(Namespace(shard=shard, blocks=None, scratch=scratch, out=out, **named))
    return folder


@pytest.fixture
def folder(captured, tmp_path) -> Path:
    """A folder with captured inputs and nothing else."""
    shutil.copytree(captured / "block_inputs.zarr", tmp_path / "results" / "block_inputs.zarr")
    return tmp_path / "results"


@pytest.fixture(scope="session")
def finished(captured, tmp_path_factory) -> dict[str, Path]:
    """The file of mm_00 by engine; not to be changed."""
    files = {}
    for engine in TRIED:
        place = tmp_path_factory.mktemp(engine)
        shutil.copytree(captured / "block_inputs.zarr", place / "block_inputs.zarr")
        files[engine] = quantize(place, engine=engine)
    return files


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A folder with mm_00 finished by rounding to nearest."""
    return shutil.copytree(finished["rtn"].parent.parent, tmp_path / "results")


@pytest.fixture(scope="session")
def weights() -> dict[str, np.ndarray]:
    """The model's weights by layer name."""
    paths = {layer.path: layer.name for layer in list_linears(*plan.MODEL_BLOCKS["embedded"])}
    parameters = dict(tree_flatten(find_model("embedded").load_transformer().parameters()))
    return {name: np.array(parameters[f"{path}.weight"]) for path, name in paths.items()}


# What is made
