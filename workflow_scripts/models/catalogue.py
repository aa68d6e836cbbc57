"""The models a configuration can name.

A model is a module or an object with `load_transformer()`, `encode_prompts(prompts, negative_prompt)`,
`iterate_encodings(prompts, negative_prompt, scratch)`, `describe_dropped(texts)`, `load_decoder()`,
`decode_latents(decoder, latents)`, `process_out(latents)`, `decode_processed(decoder, latents)`, `file_digests()`,
`compute_sigmas(steps)`, `PICTURE_SHAPE` and `LATENT_SHAPE`.
"""

import importlib
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from workflow_scripts import plan
from workflow_scripts.store.errors import UserError
from workflow_scripts.user_files import find_place

log = logging.getLogger("workflow_scripts")


def warn_of_dropped_text(model: Any, texts: Sequence[str]) -> None:
    """Say in one line, with counts, what of the texts the model's encoders do not read."""
    if phrases := model.describe_dropped(texts):
        log.warning(f"text that is not read: {'; '.join(phrases)}")


def find_model(name: str, parameters: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The model called `name`, of what `parameters` say of it. Raises UserError for an unknown one."""
    if name not in plan.MODEL_KEYS:
        raise UserError(f"model: {name} is unknown; choose one of {', '.join(plan.MODEL_KEYS)}")
    if name == plan.EMBEDDED:
        return importlib.import_module("workflow_scripts.models.embedded")
    # Imported where it is needed, as it takes a second.
    released = importlib.import_module("workflow_scripts.models.sd3")
    parameters = {plan.WEIGHTS_FROM: find_place(plan.WEIGHTS_FROM)} | dict(parameters)
    settings = {key: parameters[key] for key in plan.MODEL_KEYS[name]}
    return released.MODELS[name](**{"use_t5": True} | settings)  # FLUX reads nothing but T5's tokens
