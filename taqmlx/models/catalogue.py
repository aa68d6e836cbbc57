"""Lookup of the models that a configuration can name."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from taqmlx.models.protocol import Model
from taqmlx.planning import plan
from taqmlx.planning.local_paths import find_local_path
from taqmlx.planning.stage_groups import ModelOptions
from taqmlx.store.errors import UserError
from taqmlx.store.folds_file import read_folds

log = logging.getLogger("taqmlx")
NO_OPTIONS = ModelOptions()


def warn_of_dropped_text(model: Model, texts: Sequence[str]) -> None:
    """Log one warning, with counts, about the parts of the texts that the model's encoders drop."""
    if phrases := model.describe_dropped(texts):
        log.warning(f"dropped text: {'; '.join(phrases)}")


def find_model(
    name: str, options: ModelOptions = NO_OPTIONS, weights_from: str | None = None, folds: Path | None = None
) -> Model:
    """Return the model called `name`, with weights from `weights_from` or from the place that the environment names.

    folds: file of the folds to apply to its weights. Raises UserError for an unknown name, a missing option, or the
    folds of another model.
    """
    model = find_original(name, options, weights_from)
    if folds is None:
        return model
    from taqmlx.models.folded import FoldedModel

    found = read_folds(folds)
    if difference := plan.describe_difference(found.model, model.file_digests()):
        raise UserError(f"{folds} was made from another model ({difference}); delete it and run fold_model again")
    return cast(Model, FoldedModel(model, found))


def find_original(name: str, options: ModelOptions, weights_from: str | None) -> Model:
    """Return the model called `name` without folds. Raises UserError for an unknown name or a missing option."""
    if name not in plan.MODEL_KEYS:
        raise UserError(f"model: {name} is unknown; choose one of {', '.join(plan.MODEL_KEYS)}")
    # Imported on demand: the imports take a second.
    if name == "embedded":
        from taqmlx.models import embedded

        return embedded
    settings: dict[str, Any] = {key: getattr(options, key) for key in plan.MODEL_KEYS[name] if key != plan.WEIGHTS_FROM}
    if missing := [key for key, value in settings.items() if value is None]:
        raise UserError(f"{missing[0]}: missing from the parameters of the model {name}; make them again")
    if name == "embedded-hard":
        from taqmlx.models.embedded_hard import HardModel

        return HardModel(**settings)
    from taqmlx.models.sd3 import MODELS

    settings = {"use_t5": True} | settings  # FLUX requires T5
    return MODELS[name](weights_from=weights_from or find_local_path(plan.WEIGHTS_FROM), **settings)
