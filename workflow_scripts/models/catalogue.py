"""The models a configuration can name.

A model is a module with `load_transformer()`, `encode_prompts(prompts, negative_prompt)`, `load_decoder()`,
`decode_latents(decoder, latents)`, `process_out(latents)`, `decode_processed(decoder, latents)`, `file_digests()`,
`LATENT_SHAPE` and `SAMPLER_SHIFT`.
"""

import importlib
from types import ModuleType

from workflow_scripts.store.errors import UserError

_MODULES = {"embedded": "workflow_scripts.models.embedded"}


def find_model(name: str) -> ModuleType:
    """The module of the model called `name`. Raises UserError for an unknown one."""
    if name not in _MODULES:
        raise UserError(f"model: {name} is unknown; choose one of {', '.join(_MODULES)}")
    return importlib.import_module(_MODULES[name])
