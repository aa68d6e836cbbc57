"""Rules of the layer inputs that folds transform."""

from collections.abc import Sequence

from taqmlx.planning import plan
from taqmlx.planning.folds import list_sites
from taqmlx.planning.layer_rules import InputPattern, InputRule, find_input_rule


def list_site_rules(model: str, activations: Sequence[InputPattern]) -> dict[str, InputRule]:
    """The input rule, that of its first reader, of every layer input of `model` that can have a fold, by input name."""
    sites = list_sites(*plan.MODEL_BLOCKS[model])
    return {site.name: find_input_rule(activations, site.readers[0].name) for site in sites}
