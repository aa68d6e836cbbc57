"""The workflow on a miniature by Snakemake, with jobs as processes and without a network."""

import importlib
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from taqmlx.planning import configuration, plan
from taqmlx.planning.block_plan import select_block
from taqmlx.store.files import write_json
from tools.commands import find_module
from workflow_scripts.tools import generate

STARTUP = Path(__file__).with_name("startup")
PROMPTS = ["a red circle on the table", "a photo of a tabby cat"]
WIDEST = "context_embedder"
CONFIG = {
    "model": "sd3-medium",
    "height": 32,
    "width": 48,
    "negative_prompt": "blue square",
    "trajectories": 3,
    "prompts_per_shard": 1,
    "cfg_scale": 1.5,
    "seed": 3,
    "steps": 3,
    "selected_steps": 2,
    "checkpoint_every": 2,
    "statistics_points": 2,
    "statistics_shards": 1,
    "capture_points": 4,
    "capture_shards": 1,
    "held_out": 0.25,
    "folds": [],
    # No search for ranges, nor for the bits of the layer with 4096 inputs: most of the work at this scale.
    "weights": [{"layers": "*", "bits": 4, "range": "absmax"}, {"layers": WIDEST, "bits": 16}],
    "engine": "rtn",
    "adaround_iterations": 4,
    "adaround_batch": 2,
    "search_points": 4,
    "search_probes": 2,
    "distil": "scales",
    "distil_iterations": 2,
    "distil_batch": 2,
}

FLUX = {
    "model": "flux-schnell",
    "negative_prompt": "",
    "cfg_scale": 1,
    "evaluation_cfg": 1,
    "trajectories": 2,
    "steps": 2,
    # Neither bits nor grids are searched for, as there are 57 blocks.
    "bits_per_weight": None,
    "distil": "none",
    "weights": [{"layers": "*_[0-9]*", "bits": 4, "range": "absmax"}],
}


def call(name: str, **arguments) -> None:
    """Run an entry in this process."""
    importlib.import_module(find_module(name)).main(Namespace(**arguments))


def draw(model: str, out: Path, *options: object) -> np.ndarray:
    """The picture (32, 48, 3) of the first prompt that `generate` draws in two steps."""
    common = ["--model", model, "--height", 32, "--width", 48, "--steps", 2, "--prompt", PROMPTS[0], "--out", out]
    generate.main(generate.build_arguments().parse_args([str(option) for option in (*common, *options)]))
    return np.array(Image.open(out)).astype(int)


def surround(hub: Path) -> dict[str, str]:
    """What a process needs in its environment: the Hub's cache and no network, DiffusionKit's sizes, no PyTorch."""
    paths = os.pathsep.join([str(STARTUP), os.environ.get("PYTHONPATH", "")])
    return {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}


class Run:
    """A folder with a configuration, the results, and the Hub's cache; `python` runs Snakemake."""

    def __init__(self, folder: Path, hub: Path, python: str = sys.executable, **changes):
        self.folder, self.hub, self.python, self.results = folder, hub, python, folder / "results"
        prompts = folder / "prompts.txt"
        prompts.write_text("\n".join(PROMPTS) + "\n")
        self.given = CONFIG | {"results_dir": str(self.results), "prompts": str(prompts)} | changes
        self.config = configuration.complete(self.given, configuration.load_schema())
        (folder / "config.yaml").write_text(yaml.safe_dump(self.given))

    def make(self, *targets: str) -> str:
        """Let Snakemake make `targets`, two jobs at a time; what it says."""
        command = [self.python, "-m", "snakemake", "--cores", "2", *targets, "--notemp"]
        done = subprocess.run(
            [*command, "--configfile", str(self.folder / "config.yaml")],
            env=os.environ | surround(self.hub),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def learn(self, block: str) -> Path:
        """Learn a block's rounding, in this process; its report."""
        parameters = plan.select_parameters("optimise_block", self.config | {"engine": "adaround"}, PROMPTS)
        params, out = self.folder / f"{block}.params.json", self.folder / "learned" / f"{block}.safetensors"
        write_json(params, select_block(parameters, block))
        rows, places = [self.results / "block_inputs.zarr" / "00"], {"scratch": self.folder / "scratch", "out": out}
        mixed = None if self.config["bits_per_weight"] is None else self.results / "mixed_bits.json"
        folds = self.results / "folds.safetensors" if self.config["folds"] else None
        call("optimise_block", params=params, inputs=rows, before=[], mixed=mixed, replace=False, folds=folds, **places)
        return out.with_suffix(".report.json")
