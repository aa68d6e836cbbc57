"""A small calibration set of the embedded model, and the results of the entries."""

import hashlib
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr
from mlx.utils import tree_flatten

from taqmlx.models.catalogue import find_model
from taqmlx.numerics import weight_grid
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.planning import configuration, plan
from taqmlx.planning.block_plan import select_block
from taqmlx.planning.layer_rules import UNQUANTIZED
from taqmlx.planning.layers import list_linears
from taqmlx.planning.stage_groups import ModelOptions
from taqmlx.store.block_file import LayerWeight, write_block
from taqmlx.store.calibration import list_specs
from taqmlx.store.files import read_json, write_json
from taqmlx.store.seal import make_seal, write_group_seal
from taqmlx.store.zarr_arrays import create_group
from tools.small_results.presets import PAPER
from workflow_scripts.activations import collect_activations, merge_activations
from workflow_scripts.quant_config import write_quant_config
from workflow_scripts.weights import pack_weights

STEPS, SIGMAS = [0, 3, 6], [1.0, 0.75, 0.25]
PROMPTS, POINTS_PER_STEP, CFG_SCALE = 3, 6, 3.0


class Study:
    """A folder of results, and the entries called as the rules call them."""

    def __init__(self, folder: Path, **values):
        self.folder = folder
        self.calibration = folder / "calibration.zarr"
        self.statistics = folder / "activations" / "statistics.json"
        self.quantized = folder / "quantized"
        self.quant_config = folder / "quant_config.json"
        self.configure(**({"statistics_shards": 2} | values))

    def configure(self, **values):
        """Write the parameters of every stage from the paper's rules with these values."""
        values = PAPER | {"selected_steps": len(STEPS)} | values
        config = configuration.complete(values, configuration.load_schema())
        for stage in ("collect_activations", "optimise_block", "pack_weights", "write_quant_config"):
            write_json(self.folder / "params" / f"{stage}.json", plan.select_parameters(stage, config, []))

    def params(self, stage):
        return self.folder / "params" / f"{stage}.json"

    def list_shards(self):
        names = plan.list_stage_shards(read_json(self.params("collect_activations"))["statistics_shards"])
        return [self.folder / "activations" / "shards" / f"{name}.safetensors" for name in names]

    def collect(self, shard):
        params = self.params("collect_activations")
        collect_activations.main(
            Namespace(params=params, calibration=self.calibration, shard=shard.stem, out=shard, folds=None),
        )

    def merge(self):
        merge_activations.main(Namespace(shards=self.list_shards(), out=self.statistics))

    def quantize(self):
        self.pack(write_rounded_blocks(self.folder / "adaround", read_json(self.params("optimise_block"))))

    def pack(self, blocks, out_dir=None, uniform_g64=False, mixed=None):
        params, out_dir = self.params("pack_weights"), out_dir or self.quantized
        pack_weights.main(
            Namespace(params=params, blocks=blocks, mixed=mixed, out_dir=out_dir, uniform_g64=uniform_g64, folds=None)
        )

    def write_config(self):
        write_quant_config.main(
            Namespace(
                params=self.params("write_quant_config"),
                statistics=self.statistics,
                quantized=self.quantized,
                calibration=self.calibration,
                blocks=sorted((self.folder / "adaround").glob("*.safetensors")),
                out=self.quant_config,
            )
        )

    def finish(self):
        for shard in self.list_shards():
            self.collect(shard)
        self.merge()
        self.quantize()
        self.write_config()


def write_rounded_blocks(
    folder: Path,
    parameters: dict,
    choose_codes=weight_grid.round_to_grid,
    inputs: dict[str, InputQuantizer] | None = None,
    sigmas: Sequence[float] = tuple(SIGMAS),
) -> list[Path]:
    """The files of every block and of the layers of none, as their jobs write them, by the rules in `parameters`.

    `choose_codes(weight, grid)` rounds a weight (out, in) to codes; `inputs` are input quantizers by layer name.
    """
    model = find_model(parameters["model"], ModelOptions.take(parameters))
    weights = dict(tree_flatten(model.load_transformer().parameters()))
    paths = {layer.name: layer.path for layer in list_linears(*plan.MODEL_BLOCKS[parameters["model"]])}
    origin = {"model": model.file_digests(), "block_inputs": {"00": "0" * 64}}
    files = []
    for block in plan.list_units(parameters["model"]):
        stage = plan.name_stage(block)
        named = select_block(parameters, block) | {"stage": stage, "version": plan.STAGES[stage][0], "engine": "rtn"}
        rounded = {}
        for name, rules in named["layers"].items():
            if rules["weight"]["bits"] != UNQUANTIZED:
                weight = np.array(weights[f"{paths[name]}.weight"])
                grid = weight_grid.choose_grid(weight, rules["weight"])
                rounded[name] = LayerWeight(grid, choose_codes(weight, grid))
        own = {name: grid for name, grid in (inputs or {}).items() if name in named["layers"]}
        files.append(folder / f"{block}.safetensors")
        write_block(files[-1], rounded, own, np.array(sigmas, np.float32), named, origin)
    return files


def write_calibration(path: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """A sealed calibration set of 6 points at each of 3 steps, and its arrays."""
    rng = np.random.default_rng(seed)
    model = find_model("embedded")
    cs, cs_pooled = (np.array(shard) for shard in model.encode_prompts(["a red circle", "a blue square", "a dog"]))
    places = rng.permutation(np.repeat(np.arange(len(STEPS)), POINTS_PER_STEP))
    sigmas = np.array(SIGMAS, np.float32)[places]
    arrays = {
        "xs": rng.standard_normal((len(places), *model.LATENT_SHAPE)).astype(np.float16),
        "ts": 1000 * sigmas,
        "sigmas": sigmas,
        "steps": np.array(STEPS)[places],
        "prompt_indices": rng.integers(0, PROMPTS, len(places)),
        "cs": cs,
        "cs_pooled": cs_pooled,
    }
    shapes = {"latent_shape": model.LATENT_SHAPE, "cs_shape": cs.shape, "cs_pooled_shape": cs_pooled.shape}
    create_group(path, list(list_specs(len(places), *shapes.values()).values()))
    group = zarr.open_group(path)
    group.attrs["cfg_scale"] = CFG_SCALE
    for name, array in arrays.items():
        group[name][...] = array
    seal_calibration(path, shapes, seed)
    return arrays


def seal_calibration(path: Path, shapes: dict, seed: int = 0) -> None:
    """Seal the set in `path` as it is."""
    parameters = {"trajectories": POINTS_PER_STEP, "selected_steps": len(STEPS), "cfg_scale": CFG_SCALE, "seed": seed}
    digests = {name: hashlib.sha256(array[...].tobytes()).hexdigest() for name, array in zarr.open_group(path).arrays()}
    write_group_seal(path, make_seal(parameters, {key: list(shape) for key, shape in shapes.items()}, digests))
