"""The models a configuration can name.

A model is a module or an object with `load_transformer()`, `encode_prompts(prompts, negative_prompt)`,
`load_decoder()`, `decode_latents(decoder, latents)`, `process_out(latents)`, `decode_processed(decoder, latents)`,
`file_digests()`, `PICTURE_SHAPE`, `LATENT_SHAPE` and `SAMPLER_SHIFT`.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from workflow_scripts import plan
from workflow_scripts.store.errors import UserError

_MODULES = {"embedded": "workflow_scripts.models.embedded", "sd3-medium": "workflow_scripts.models.sd3"}


def find_model(name: str, parameters: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The model called `name`, of what `parameters` say of it. Raises UserError for an unknown one."""
    if name not in _MODULES:
        raise UserError(f"model: {name} is unknown; choose one of {', '.join(_MODULES)}")
    module = importlib.import_module(_MODULES[name])
    settings = {key: parameters[key] for key in plan.MODEL_KEYS[name]}
    return module.create(**settings) if settings else module
