"""What rounding costs each layer of one block: `<results>/sensitivity/mm_03.json` and its arrays beside it.

Errors are squared, relative to the square of full precision. Of the content:

- gains: by stream of the block's output, the velocity's error over that stream's, where only that is led astray;
  the velocity is the one under classifier-free guidance of the weight `evaluation_cfg`, here and below;
- weights: by layer, `elements`, `config_bits` and `errors`, by bits: `bits_per_weight` with scales and biases, the
  errors of the streams `image` and `text`, and that of the `velocity`, with this layer alone rounded;
- inputs: by reader, `layers` that share the input, `post_gelu`, `tiers`, by bits: the `clip` that costs least, the
  share `inside` it and the `errors` of the block's output at each of `sigmas`; `clips`, by bits: the error by clip;
- distributions: by layer, the grids at the noise level `knot`, whose histograms are among the arrays;
- parameters and origin: what it was made with and from.

The `checksum` is that of everything else, and `arrays` has the other file's digest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taqmlx.planning import plan
from taqmlx.store.errors import UserError, blame
from taqmlx.store.files import hash_file, read_json, write_json
from taqmlx.store.tensors import read_named_tensors, write_tensors

FORMAT = {"format": "sensitivity", "version": 1}


def write_sensitivity(path: Path, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays beside `path`, and after them the file."""
    place = path.with_suffix(".safetensors")
    write_tensors(place, arrays)
    whole = FORMAT | content | {"arrays": {"file": place.name, "sha256": hash_file(place)}}
    write_json(path, whole)


def read_sensitivity(path: Path) -> dict[str, Any]:
    """The content of `path`. Raises UserError if it is missing, damaged, or of another format or version."""
    content = read_json(path)
    if {key: content.get(key) for key in FORMAT} != FORMAT:
        raise UserError(f"{path} is no sensitivity file of version {FORMAT['version']}; run measure_sensitivity again")
    if content.get("block") != path.stem:
        raise UserError(f"{path} is of the block {content.get('block')}; delete it and run measure_sensitivity again")
    return content


def read_sensitivity_arrays(path: Path, content: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that the `content` of `path` names. Raises UserError if they are missing or changed."""
    with blame(path):
        named = content["arrays"]
    return read_named_tensors(path, named, "measure_sensitivity")


def read_sensitivities(paths: Sequence[Path], model: str) -> dict[str, dict[str, Any]]:
    """The contents of `paths` by block, in the order of the model's blocks.

    Raises UserError if one is damaged or of another model, made from something else than the first, or if a block is
    missing or there twice.
    """
    read: dict[str, dict[str, Any]] = {}
    for path in paths:
        content = read_sensitivity(path)
        with blame(path):
            block, first = content["block"], next(iter(read.values()), content)
            if content["model"] != model:
                raise UserError(
                    f"{path} is of the model {content['model']}, not {model}; run measure_sensitivity again"
                )
            if block in read:
                raise UserError(f"{path} is of {block}, as another file; name each block once")
            if difference := plan.describe_difference(content["origin"], first["origin"]):
                raise UserError(f"{path} and {paths[0]} were made from different files ({difference}); make both again")
            read[block] = content
    if missing := [block for block in plan.list_blocks(model) if block not in read]:
        raise UserError(f"the sensitivity of {', '.join(missing)} is missing; run measure_sensitivity for all blocks")
    return {block: read[block] for block in plan.list_blocks(model)}
