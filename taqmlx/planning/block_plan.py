"""What one block's job is made with: the stage's parameters, with the rules resolved to the block's own layers.

So a rule for one block's layers makes that block again and no other.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from taqmlx.planning import plan
from taqmlx.planning.layer_rules import find_rule
from taqmlx.planning.layers import list_linears
from taqmlx.planning.plain_files import read_plain_json


def select_block(parameters: plan.Parameters, block: str) -> plan.Parameters:
    """The parameters of `block` from those of the stage `optimise_block`, or of `shared` from those of `round_shared`.

    `layers` has each linear's rules, `{"weight": ..., "activation": ...}`, by name, in place of the lists of patterns.
    `block` may be `shared`: the layers of none.
    """
    resolved, names = resolve_layers(parameters), list_names(parameters["model"], block)
    return resolved | {"block": block, "layers": {name: resolved["layers"][name] for name in names}}


def resolve_layers(parameters: plan.Parameters) -> plan.Parameters:
    """`parameters` with each linear's rules, `layers`, in place of the lists of patterns."""
    layers = {
        layer.name: {
            "weight": find_rule(parameters["weights"], layer.name),
            "activation": find_rule(parameters["activations"], layer.name),
        }
        for layer in list_linears(*plan.MODEL_BLOCKS[parameters["model"]])
    }
    kept = {key: value for key, value in parameters.items() if key not in ("weights", "activations")}
    return kept | {"layers": layers}


def list_names(model: str, block: str) -> list[str]:
    """The linears of a block, or of none."""
    layers = list_linears(*plan.MODEL_BLOCKS[model])
    return [layer.name for layer in layers if (layer.block or plan.SHARED) == block]


def encode_block(config: plan.Parameters, block: str) -> str:
    """The configuration values the job of `block` reads, as JSON for a command line; of the rules, those that match."""
    names = list_names(config["model"], block)
    own = {
        key: [rule for rule in config[key] if any(fnmatchcase(name, rule["layers"]) for name in names)]
        for key in ("weights", "activations")
    }
    return plan.encode_values("optimise_block", config | own)


def find_conflicts(folder: Path, parameters: plan.Parameters) -> Iterator[str]:
    """Finished blocks in `folder` that other parameters made: one line each, naming a difference.

    `parameters` are those of the stage `optimise_block`.
    """
    for block in plan.list_blocks(parameters["model"]):
        yield from find_conflict(folder / f"{block}.json", select_block(parameters, block))


def find_conflict(seal: Path, wanted: plan.Parameters) -> Iterator[str]:
    """A line if a block is finished, its seal in the file `seal`, and was not made with the parameters `wanted`."""
    if not seal.exists():
        return
    try:
        sealed = plan.take_sealed(read_plain_json(seal))
    except (OSError, ValueError, KeyError, TypeError):
        yield f"{seal} is damaged; delete it and run again"
        return
    if isinstance(sealed, dict) and sealed.get("block", wanted["block"]) != wanted["block"]:
        yield f"{seal} is of the block {sealed['block']}; delete it and run again"
    elif difference := plan.describe_difference(sealed, wanted):
        yield f"{seal.with_suffix('')} was made with other parameters ({difference})"


def find_source_conflicts(results: Path, sources: Iterable[plan.Parameters]) -> Iterator[str]:
    """A line for each stage that finished blocks were made from with other parameters than `sources` say.

    The captured inputs of the blocks are temporary: what they were made with is in the stages' parameter files.
    """
    if not any((results / "adaround").glob("[!.]*.json")):
        return
    for wanted in sources:
        path = results / "params" / f"{wanted['stage']}.json"
        with suppress(OSError, ValueError, AttributeError):
            found = read_plain_json(path)
            known = {key: found.get(key) for key in wanted}
            if difference := plan.describe_difference(known, wanted):
                yield f"{results / 'adaround'} was made from other {wanted['stage']} ({difference})"
