"""The workflow's entries in sequence, called as the rules call them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from taqmlx.planning import configuration, plan
from taqmlx.planning.block_plan import select_block
from taqmlx.planning.stages import CollectShard
from taqmlx.store.files import write_json

Call = Callable[..., None]
LEARNED = "mm_01"  # the block whose rounding is learned; the others are rounded to nearest


class Run:
    """A folder of results of a model in full; `call(entry, **arguments)` runs an entry."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        prompts: Sequence[str],
        call: Call,
    ):
        self.folder, self.prompts, self.call = folder, list(prompts), call
        self.calibration, self.conditioning = folder / "calibration.zarr", folder / "conditioning.safetensors"
        self.store, self.rows = folder / "trajectories.zarr", folder / "block_inputs.zarr" / "00"
        self.blocks = [folder / "adaround" / f"{block}.safetensors" for block in plan.list_block_names(config["model"])]
        self.shared = folder / "adaround" / "shared.safetensors"
        self.config = configuration.complete(dict(config), configuration.load_schema())

    def params(self, stage: str) -> Path:
        path = self.folder / "params" / f"{stage}.json"
        write_json(path, plan.select_parameters(stage, self.config, self.prompts))
        return path

    def encode(self) -> None:
        """The prompts' encodings."""
        self.call(
            "encode_prompts",
            params=self.params("encode_prompts"),
            out=self.conditioning,
            seal=self.conditioning.with_suffix(".json"),
        )

    def collect(self) -> None:
        """Trajectories and calibration points."""
        self.call("create_store", out=self.store / "zarr.json")
        shared = {"conditioning": self.conditioning}
        for shard in plan.list_shards(plan.select_stage(CollectShard, self.config, self.prompts)):
            places = {"out": self.store / shard, "scratch": self.folder / "scratch" / shard}
            self.call("collect_shard", params=self.params("collect_shard"), shard=shard, **places, **shared)
        places = {"trajectories": self.store, "out": self.calibration}
        self.call("gather_calibration", params=self.params("gather_calibration"), **places, **shared)

    def observe(self) -> None:
        """Statistics of the activations, and block inputs."""
        part = self.folder / "activations" / "shards" / "00.safetensors"
        shared = {"calibration": self.calibration, "shard": "00"}
        self.call("collect_activations", params=self.params("collect_activations"), out=part, **shared)
        self.call("merge_activations", shards=[part], out=self.folder / "activations" / "statistics.json")
        places = {"scratch": self.folder / "scratch" / "blocks", "out": self.rows}
        self.call("capture_blocks", params=self.params("capture_blocks"), blocks=None, **places, **shared)

    def measure_costs(self, weights: list[dict[str, Any]]) -> None:
        """Costs of the bits of some layers: those that the rules `weights` quantize."""
        params = self.folder / "params" / "measure_costs.json"
        config = configuration.complete(self.config | {"weights": weights}, configuration.load_schema())
        write_json(params, plan.select_parameters("measure_costs", config, self.prompts))
        self.call("measure_costs", params=params, calibration=self.calibration, out=self.folder / "weight_costs.json")

    def distil(self) -> None:
        """The whole model, from every block and the layers of none."""
        places = {"scratch": self.folder / "scratch" / "distil", "out": self.folder / "distilled.safetensors"}
        blocks = [*self.blocks, self.shared]
        self.call("distil", params=self.params("distil"), calibration=self.calibration, blocks=blocks, **places)

    def quantize(self) -> None:
        """Every block and the layers of none, the packed checkpoint and the configuration of both."""
        for path in self.blocks:
            engine = "adaround" if path.stem == LEARNED else "rtn"
            parameters = plan.select_parameters("optimise_block", self.config | {"engine": engine}, self.prompts)
            params = self.folder / "params" / "optimise_block" / f"{path.stem}.json"
            write_json(params, select_block(parameters, path.stem))
            scratch = self.folder / "scratch" / "adaround" / path.stem
            self.call(
                "optimise_block",
                params=params,
                inputs=[self.rows],
                before=[],
                mixed=None,
                scratch=scratch,
                out=path,
                replace=False,
            )
        places = {"calibration": self.calibration, "mixed": None, "out": self.shared}
        self.call("round_shared", params=self.params("round_shared"), **places)
        quantized, blocks = self.folder / "quantized", [*self.blocks, self.shared]
        self.call(
            "pack_weights",
            params=self.params("pack_weights"),
            blocks=blocks,
            mixed=None,
            out_dir=quantized,
            uniform_g64=False,
        )
        self.call(
            "write_quant_config",
            params=self.params("write_quant_config"),
            statistics=self.folder / "activations" / "statistics.json",
            quantized=quantized,
            calibration=self.calibration,
            blocks=blocks,
            out=self.folder / "quant_config.json",
        )
