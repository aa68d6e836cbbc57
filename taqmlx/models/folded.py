"""A model with folds in its weights: the same function, with other layer inputs."""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from taqmlx.mmdit.folds import apply_fold
from taqmlx.mmdit.transformer import Transformer
from taqmlx.models.protocol import Model
from taqmlx.planning.folds import list_sites
from taqmlx.store.block_inputs import FOLDS
from taqmlx.store.folds_file import FoldsFile


class FoldedModel:
    """`model` with `folds` in its transformer; everything else is the model's."""

    def __init__(self, model: Model, folds: FoldsFile):
        self.model, self.folds = model, folds

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def file_digests(self) -> dict[str, str]:
        """Digests of the model's files, and of the folds."""
        return self.model.file_digests() | {FOLDS: self.folds.fingerprint}

    def load_transformer(self) -> Transformer:
        """Load the transformer of the model with the folds applied."""
        return fold_transformer(self.model.load_transformer(), self.folds)


def fold_transformer(transformer: Any, folds: FoldsFile) -> Any:
    """Apply the folds to the weights of `transformer`, in place. Raises UserError as `apply_fold`."""
    config = transformer.config
    sites = {site.name: site for site in list_sites(config.depth_multimodal, config.depth_unified)}
    weights = dict(tree_flatten(transformer.parameters()))
    for fold in folds.folds:
        changed = apply_fold(weights, sites[fold.site], fold.kind, fold.vector, config.num_heads)
        weights |= changed
        transformer.load_weights(list(changed.items()), strict=False)
    mx.eval(transformer.parameters())
    return transformer
