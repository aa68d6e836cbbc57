"""Lookup of the models that a configuration can name."""

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from taqmlx.models.protocol import Model
from taqmlx.planning import plan
from taqmlx.planning.local_paths import find_place
from taqmlx.store.errors import UserError

log = logging.getLogger("taqmlx")


def warn_of_dropped_text(model: Model, texts: Sequence[str]) -> None:
    """Log one warning, with counts, about the parts of the texts that the model's encoders drop."""
    if phrases := model.describe_dropped(texts):
        log.warning(f"dropped text: {'; '.join(phrases)}")


def find_model(name: str, parameters: Mapping[str, Any] = MappingProxyType({})) -> Model:
    """Return the model called `name` with its options in `parameters`. Raises UserError for an unknown name."""
    if name not in plan.MODEL_KEYS:
        raise UserError(f"model: {name} is unknown; choose one of {', '.join(plan.MODEL_KEYS)}")
    # Imported on demand: the imports take a second.
    if name == "embedded":
        from taqmlx.models import embedded

        return embedded
    if name == "embedded-hard":
        from taqmlx.models.embedded_hard import HardModel

        return HardModel(parameters["hardness"])
    from taqmlx.models.sd3 import MODELS

    parameters = {plan.WEIGHTS_FROM: find_place(plan.WEIGHTS_FROM)} | dict(parameters)
    settings = {key: parameters[key] for key in plan.MODEL_KEYS[name]}
    return MODELS[name](**{"use_t5": True} | settings)  # FLUX requires T5
