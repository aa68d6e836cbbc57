"""Report beside a block file: the error of each rounding method. `<results>/adaround/mm_03.report.json`"""

from pathlib import Path
from typing import cast

from taqmlx.planning.documents import BlockReport, InputKind, ModelReport
from taqmlx.store.files import read_json, write_json

FORMAT = {"format": "block-report"}
# Titles of the rounding methods, and of the two ways a block is run with each.
ENGINES = {"rtn": "RTN", "gptq": "GPTQ", "adaround": "AdaRound"}
INPUTS: dict[InputKind, str] = {
    "full_precision_inputs": "full-precision inputs",
    "quantized_inputs": "quantized inputs",
}


def name_report(path: Path) -> Path:
    """Path of the report of the block at `path`."""
    return path.with_suffix(".report.json")


def write_report(path: Path, block: str, content: BlockReport | ModelReport) -> None:
    """Write the report of `block`."""
    write_json(path, {**content, **FORMAT, "block": block})


def read_report(path: Path) -> BlockReport:
    """Read a block's report. Raises UserError if it is missing, damaged, or another block's."""
    return cast(BlockReport, read_json(path, **FORMAT, block=path.name.partition(".")[0]))


def read_model_report(path: Path) -> ModelReport:
    """Read the report of the distilled model. Raises UserError as `read_report`."""
    return cast(ModelReport, read_report(path))
