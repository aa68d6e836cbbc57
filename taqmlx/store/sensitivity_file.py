"""Quantization sensitivity of the layers of one block: `<results>/sensitivity/mm_03.json`, with its arrays beside it.

Errors are squared and relative to the square of the full-precision value. Keys:

- gains: by stream of the block's output, the ratio of the velocity's error to that stream's error when only that
  stream is perturbed; the velocity here and below is under classifier-free guidance of weight `evaluation_cfg`;
- weights: by layer, `elements`, `config_bits` and `errors`, by bits: `bits_per_weight` with scales and biases, the
  errors of the streams `image` and `text`, and that of the `velocity`, with only this layer quantized;
- inputs: by reader, `layers` that share the input, `post_gelu`, `tiers`, by bits: the `clip` of least error, the
  share of values `inside` it and the `errors` of the block's output at each of `sigmas`; `clips`, by bits: the error
  by clip;
- distributions: by layer, the grids at the noise level `knot`, whose histograms are among the arrays;
- parameters and origin: parameters and inputs of the measurement.

The `checksum` covers all other keys, and `arrays` has the digest of the arrays' file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from taqmlx.planning import plan
from taqmlx.planning.documents import Sensitivity
from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.files import hash_file, read_json, write_json
from taqmlx.store.tensors import read_named_tensors, write_tensors

FORMAT = {"format": "sensitivity", "version": 1}


def write_sensitivity(path: Path, content: Sensitivity, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays beside `path`, then the file."""
    place = path.with_suffix(".safetensors")
    write_tensors(place, arrays)
    whole = FORMAT | content | {"arrays": {"file": place.name, "sha256": hash_file(place)}}
    write_json(path, whole)


def read_sensitivity(path: Path) -> Sensitivity:
    """Read `path`. Raises UserError if it is missing, damaged, or of another format or version."""
    content = read_json(path)
    if {key: content.get(key) for key in FORMAT} != FORMAT:
        raise UserError(
            f"{path} is not a sensitivity file of version {FORMAT['version']}; run measure_sensitivity again"
        )
    if content.get("block") != path.stem:
        raise UserError(f"{path} belongs to block {content.get('block')}; delete it and run measure_sensitivity again")
    return cast(Sensitivity, content)


def read_sensitivity_arrays(path: Path, content: Sensitivity) -> dict[str, np.ndarray]:
    """Read the arrays referenced in the `content` of `path`. Raises UserError if they are missing or changed."""
    with report_damage(path):
        named = content["arrays"]
    return read_named_tensors(path, named, "measure_sensitivity")


def read_sensitivities(paths: Sequence[Path], model: str) -> dict[str, Sensitivity]:
    """Read `paths` by block, in the order of the model's blocks.

    Raises UserError if one is damaged, of another model or of another origin than the first, or if a block is missing
    or occurs twice.
    """
    read: dict[str, Sensitivity] = {}
    for path in paths:
        content = read_sensitivity(path)
        with report_damage(path):
            block, first = content["block"], next(iter(read.values()), content)
            if content["model"] != model:
                raise UserError(
                    f"{path} belongs to the model {content['model']}, not {model}; run measure_sensitivity again"
                )
            if block in read:
                raise UserError(f"{path} is a second file of {block}; name each block once")
            if difference := plan.describe_difference(content["origin"], first["origin"]):
                raise UserError(f"{path} and {paths[0]} were made from different files ({difference}); make both again")
            read[block] = content
    if missing := [block for block in plan.list_block_names(model) if block not in read]:
        raise UserError(f"the sensitivity of {', '.join(missing)} is missing; run measure_sensitivity for all blocks")
    return {block: read[block] for block in plan.list_block_names(model)}
