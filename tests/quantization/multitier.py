"""A bit choice for a study with synthetic sensitivity."""

from argparse import Namespace
from pathlib import Path

from taqmlx.planning import configuration, plan
from taqmlx.planning.layers import list_linears
from taqmlx.store.files import write_json
from taqmlx.store.quant_config import read_quant_config
from tools.small_results.sensitivity import write_sensitivities
from workflow_scripts.multitier import write_multitier

# Others than the config's 1, 0.75 and 0.25: their nearest are the first, the first and the last.
KNOTS = [1.0, 0.5, 0.2]
Q, FC1, FC2, ADALN = (f"mm_01.image.{name}" for name in ("attn.q_proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation"))
LAYERS = list_linears(*plan.MODEL_BLOCKS["embedded"])
ERRORS = {4: [1e-5, 1e-9, 1e-1], 6: [1e-6, 1e-9, 1e-3], 8: [1e-7, 1e-9, 1e-5]}


class Chooser:
    """A study's config and what it takes to choose bits for it."""

    def __init__(self, study, folder: Path):
        self.study, self.folder = study, folder
        self.out = study.folder / f"{folder.name}_multitier.json"  # where the weights it names lie below
        self.sensitivity = write_sensitivities(
            folder / "sensitivity",
            KNOTS,
            lambda reader, bits: ERRORS[bits] if reader != "mm_01.text.mlp.fc1" else [10.0**-bits] * 3,
            lambda layer, bits: 10.0**-bits,
        )

    def write(self, **values):
        config = configuration.complete(values, configuration.load_schema())
        write_json(self.folder / "params.json", plan.select_parameters("write_multitier", config, []))
        write_multitier.main(
            Namespace(
                params=self.folder / "params.json",
                config=self.study.quant_config,
                statistics=self.study.statistics,
                sensitivity=self.sensitivity,
                out=self.out,
            )
        )
        return read_quant_config(self.out)
