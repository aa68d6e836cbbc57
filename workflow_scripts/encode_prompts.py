"""Encode every prompt once: `cs` and `cs_pooled` in a safetensors file, and its seal beside it."""

import argparse

import numpy as np

from workflow_scripts.entry import build_parser, log, run
from workflow_scripts.models.catalogue import find_model
from workflow_scripts.store.conditioning import write_conditioning
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import read_json


def main(arguments: argparse.Namespace) -> None:
    if arguments.seal != arguments.out.with_suffix(".json"):
        raise UserError(f"--seal: {arguments.seal} must be {arguments.out.with_suffix('.json')}, beside --out")
    parameters = read_json(arguments.params)
    model = find_model(parameters["model"], parameters)
    encodings = model.encode_prompts(parameters["prompts"], parameters["negative_prompt"])
    cs, cs_pooled = (np.array(encoding, dtype=np.float32) for encoding in encodings)
    for name, encoding in (("cs", cs), ("cs_pooled", cs_pooled)):
        if not np.isfinite(encoding).all():
            prompt = parameters["prompts"][int(np.argwhere(~np.isfinite(encoding))[0, 0])]
            raise UserError(f"{name} of the prompt {prompt!r} is not finite; check the model's text encoder")
    write_conditioning(arguments.out, arguments.seal, parameters, model.file_digests(), cs, cs_pooled)
    log.info(f"encoded {len(cs)} prompts: {arguments.out}, cs {cs.shape}, cs_pooled {cs_pooled.shape}")


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "out", "seal"))
