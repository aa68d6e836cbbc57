"""Write the evaluation's prompts, none of them used in calibration, and the prompt and seed of each image."""

import argparse
from pathlib import Path

from taqmlx.planning import configuration, plan
from taqmlx.planning.evaluation_stages import WriteEvaluationPrompts
from taqmlx.planning.local_paths import find_local_path
from taqmlx.planning.prompts import read_prompts
from taqmlx.planning.stage_demands import describe_missing_captions
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.parameters import read_parameters
from taqmlx.training.captions import Caption
from taqmlx.training.scoring import write_captions


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(WriteEvaluationPrompts, arguments.params)
    if parameters.model not in plan.EMBEDDED and not parameters.evaluation_prompts:
        raise UserError(describe_missing_captions(parameters.model))
    count, first = parameters.evaluation_pictures, parameters.evaluation_seed
    captions = read_captions(parameters) if parameters.evaluation_prompts else draw_captions(parameters, count)
    prompts = [{"text": caption.text, "asked": list(caption.asked) or None} for caption in captions[:count]]
    pictures = [{"prompt": index % len(prompts), "seed": first + index} for index in range(count)]
    write_json(arguments.out, {"format": "evaluation-prompts", "prompts": prompts, "pictures": pictures})
    log.info(f"{count} pictures of {len(prompts)} prompts: {arguments.out}")


def read_captions(parameters: WriteEvaluationPrompts) -> list[Caption]:
    """Prompts of a file, without attributes.

    Raises UserError if it cannot be read or shares a prompt with calibration.
    """
    try:
        prompts = read_prompts(Path(find_local_path("evaluation_prompts", parameters.evaluation_prompts)))
        configuration.reject_shared_prompts(prompts, parameters.prompts)
    except ValueError as error:
        raise UserError(str(error)) from None
    return [Caption(text, ()) for text in prompts]


def draw_captions(parameters: WriteEvaluationPrompts, count: int) -> list[Caption]:
    """Captions of combinations held out from training, alternating between one and two objects."""
    used = set(parameters.prompts)
    kinds = [write_captions(parameters.evaluation_seed, count + len(used), objects) for objects in (1, 2)]
    fresh = [[caption for caption in captions if caption.text not in used] for captions in kinds]
    return [caption for pair in zip(*fresh, strict=False) for caption in pair][:count]


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "out"))
