"""The workflow's entries on the miniature, one after the other, called as the rules call them."""

import importlib
from argparse import Namespace
from pathlib import Path

from workflow_scripts import configuration, plan
from workflow_scripts.block_plan import select_block
from workflow_scripts.store.files import write_json

PROMPTS = ["a red circle on the table", "a photo of a tabby cat"]
CONFIG = {
    "model": "sd3-medium",
    "height": 32,
    "width": 48,
    "negative_prompt": "blue square",
    "trajectories": 3,
    "seed": 3,
    "steps": 3,
    "selected_steps": 2,
    "checkpoint_every": 2,
    "statistics_points": 2,
    "statistics_shards": 1,
    "capture_points": 4,
    "capture_shards": 1,
    "held_out": 0.25,
    "adaround_iterations": 4,
    "adaround_batch": 2,
}
LEARNED = "mm_01"  # the block whose rounding is learned; the others are rounded to nearest


def call(name: str, **arguments) -> None:
    importlib.import_module(f"workflow_scripts.{name}").main(Namespace(**arguments))


class Run:
    """A folder of results of the miniature in full."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.calibration, self.conditioning = folder / "calibration.zarr", folder / "conditioning.safetensors"
        self.store, self.rows = folder / "trajectories.zarr", folder / "block_inputs.zarr" / "00"
        self.blocks = [folder / "adaround" / f"{block}.safetensors" for block in plan.list_blocks(CONFIG["model"])]
        self.config = configuration.complete(CONFIG, configuration.load_schema())

    def params(self, stage: str) -> Path:
        path = self.folder / "params" / f"{stage}.json"
        write_json(path, plan.select_parameters(stage, self.config, PROMPTS))
        return path

    def collect(self) -> None:
        """Prompts, trajectories, calibration points."""
        call(
            "encode_prompts",
            params=self.params("encode_prompts"),
            out=self.conditioning,
            seal=self.conditioning.with_suffix(".json"),
        )
        call("create_store", out=self.store / "zarr.json")
        shared = {"conditioning": self.conditioning}
        for shard in ("000", "001"):
            places = {"out": self.store / shard, "scratch": self.folder / "scratch" / shard}
            call("collect_shard", params=self.params("collect_shard"), shard=shard, **places, **shared)
        places = {"trajectories": self.store, "out": self.calibration}
        call("gather_calibration", params=self.params("gather_calibration"), **places, **shared)

    def observe(self) -> None:
        """Statistics of the activations, and what the blocks read."""
        part = self.folder / "activations" / "shards" / "00.safetensors"
        shared = {"calibration": self.calibration, "shard": "00"}
        call("collect_activations", params=self.params("collect_activations"), out=part, **shared)
        call("merge_activations", shards=[part], out=self.folder / "activations" / "statistics.json")
        places = {"scratch": self.folder / "scratch" / "blocks", "out": self.rows}
        call("capture_blocks", params=self.params("capture_blocks"), **places, **shared)

    def quantize(self) -> None:
        """Every block, the packed checkpoint and the configuration of both."""
        for path in self.blocks:
            engine = "adaround" if path.stem == LEARNED else "rtn"
            parameters = plan.select_parameters("optimise_block", self.config | {"engine": engine}, PROMPTS)
            params = self.folder / "params" / "optimise_block" / f"{path.stem}.json"
            write_json(params, select_block(parameters, path.stem))
            scratch = self.folder / "scratch" / "adaround" / path.stem
            call(
                "optimise_block",
                params=params,
                inputs=[self.rows],
                before=[],
                scratch=scratch,
                out=path,
                replace=False,
            )
        quantized = self.folder / "quantized"
        call(
            "pack_weights",
            params=self.params("pack_weights"),
            blocks=self.blocks,
            out_dir=quantized,
            uniform_g64=False,
        )
        call(
            "write_quant_config",
            params=self.params("write_quant_config"),
            statistics=self.folder / "activations" / "statistics.json",
            quantized=quantized,
            calibration=self.calibration,
            blocks=self.blocks,
            out=self.folder / "quant_config.json",
        )
