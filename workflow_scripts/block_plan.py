"""What one block's job is made with: the stage's parameters, with the rules resolved to the block's own layers.

So a rule for one block's layers makes that block again and no other.
"""

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from workflow_scripts import plan
from workflow_scripts.mmdit.layers import list_linears
from workflow_scripts.numerics.layer_rules import find_rule


def select_block(parameters: plan.Parameters, block: str) -> plan.Parameters:
    """The parameters of `block` from those of the stage `optimise_block`.

    `layers` has each linear's rules, `{"weight": ..., "activation": ...}`, by name, in place of the lists of patterns.
    """
    layers = {
        layer.name: {
            "weight": find_rule(parameters["weights"], layer.name),
            "activation": find_rule(parameters["activations"], layer.name),
        }
        for layer in list_linears(*plan.MODEL_BLOCKS[parameters["model"]])
        if layer.block == block
    }
    shared = {key: value for key, value in parameters.items() if key not in ("weights", "activations")}
    return shared | {"block": block, "layers": layers}


def encode_block(config: plan.Parameters, block: str) -> str:
    """The configuration values the job of `block` reads, as JSON for a command line; of the rules, those that match."""
    names = [layer.name for layer in list_linears(*plan.MODEL_BLOCKS[config["model"]]) if layer.block == block]
    own = {
        key: [rule for rule in config[key] if any(fnmatchcase(name, rule["layers"]) for name in names)]
        for key in ("weights", "activations")
    }
    return plan.encode_values("optimise_block", config | own)


def find_conflicts(results: Path, parameters: plan.Parameters) -> Iterator[str]:
    """Finished blocks in `results` that other parameters made: one line each, naming a difference.

    `parameters` are those of the stage `optimise_block`.
    """
    for block in plan.list_blocks(parameters["model"]):
        path = results / "adaround" / f"{block}.json"
        if not path.exists():
            continue
        try:
            sealed = json.loads(path.read_text(encoding="utf-8"))["parameters"]
        except (OSError, ValueError, KeyError, TypeError):
            yield f"{path} is damaged; delete it and run again"
            continue
        if difference := plan.describe_difference(sealed, select_block(parameters, block)):
            yield f"{path.with_suffix('')} was made with other parameters ({difference})"
