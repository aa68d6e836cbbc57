"""Folds of every input of a transformer that can have them, with random vectors."""

from typing import Any

import numpy as np

from taqmlx.models.folded import fold_transformer
from taqmlx.numerics.folding import sort_channels
from taqmlx.planning.folds import FOLDED_ROLES, FoldKind, Site, list_sites
from taqmlx.planning.layers import AFTER_GELU
from taqmlx.store.folds_file import Fold, FoldsFile


def fold_randomly(transformer: Any, kind: FoldKind, seed: int = 0) -> list[Fold]:
    """Fold every input of `transformer` that a fold of `kind` can transform, in place; the folds."""
    config, random = transformer.config, np.random.default_rng(seed)
    sites = list_sites(config.depth_multimodal, config.depth_unified)
    folds = [
        Fold(site.name, kind, draw_vector(transformer, site, kind, random), np.zeros(0), np.zeros(0), (1.0, 1.0))
        for site in sites
        if site.role in FOLDED_ROLES[kind]
    ]
    fold_transformer(transformer, FoldsFile(folds, "", {}))
    return folds


def draw_vector(transformer: Any, site: Site, kind: FoldKind, random: np.random.Generator) -> np.ndarray:
    """A vector (D,) of a fold: scales from 1/8 to 8, centres, an order of channels, or signs."""
    config = transformer.config
    width = config.hidden_size * (config.mlp_ratio if site.role == AFTER_GELU else 1)
    if kind == "scale":
        return np.exp2(random.integers(-3, 4, width)).astype(np.float32)
    if kind == "centre":
        return random.normal(size=width).astype(np.float32)
    if kind == "permutation":
        return sort_channels(random.normal(size=width), width // config.num_heads if site.role == "o" else width)
    return random.choice(np.array([-1, 1], np.float32), width)
