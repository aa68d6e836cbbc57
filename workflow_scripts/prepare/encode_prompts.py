"""Encode every prompt once: `cs` and `cs_pooled` in a safetensors file, with its seal beside it."""

import argparse
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from taqmlx.models.catalogue import find_model, warn_of_dropped_text
from taqmlx.planning.stages import EncodePrompts
from taqmlx.runtime.entry import Progress, build_parser, log, run
from taqmlx.store.conditioning import NAMES, Encoding, write_conditioning
from taqmlx.store.errors import UserError
from taqmlx.store.parameters import read_parameters


def main(arguments: argparse.Namespace) -> None:
    if arguments.seal != arguments.out.with_suffix(".json"):
        raise UserError(f"--seal: {arguments.seal} must be {arguments.out.with_suffix('.json')}, beside --out")
    parameters = read_parameters(EncodePrompts, arguments.params)
    prompts, negative_prompt = parameters.prompts, parameters.negative_prompt
    model = find_model(parameters.model, parameters)
    warn_of_dropped_text(model, list(filter(None, [*prompts, negative_prompt])))
    encodings = model.iterate_encodings(prompts, negative_prompt, arguments.out.parent)
    checked = check_encodings(encodings, prompts)
    write_conditioning(arguments.out, parameters.encode(), model.file_digests(), checked)
    log.info(f"encoded {len(prompts)} prompts: {arguments.out}")


def check_encodings(encodings: Iterable[Encoding], prompts: Sequence[str]) -> Iterator[Encoding]:
    """Yield the encodings unchanged. Raises UserError, naming the prompt, for one that is not finite."""
    progress = Progress("encode", len(prompts), "prompts")
    for prompt, encoding in zip(prompts, encodings, strict=True):
        for name, part in zip(NAMES, encoding, strict=True):
            if not np.isfinite(part).all():
                raise UserError(f"{name} of the prompt {prompt!r} is not finite; check the model's text encoder")
        yield encoding
        progress.advance()


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "out", "seal"))
