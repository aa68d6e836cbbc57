"""Parameters of one block's job: the stage's parameters with the rules resolved to the layers of the block.

A changed rule therefore reruns only the blocks whose layers it matches.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from taqmlx.planning import plan
from taqmlx.planning.layer_rules import LayerRule, find_input_rule, find_weight_rule
from taqmlx.planning.plain_files import read_plain_json
from taqmlx.planning.stage_groups import LayerPatterns

PHASE_COUNTS = {"joint": 1, "separate": 2}  # phases of learning, by `reconstruction`


def select_block(parameters: plan.Parameters, block: str) -> plan.Parameters:
    """Parameters of `block`, from those of stage `optimise_block`, or of `shared`, from those of `round_shared`.

    `layers` replaces the lists of patterns with the rules of each linear, `{"weight": ..., "activation": ...}`, by
    name. `block` may be `shared`: the layers outside the blocks.
    """
    resolved, names = resolve_layers(parameters), list_names(parameters["model"], block)
    return resolved | {"block": block, "layers": {name: resolved["layers"][name] for name in names}}


def resolve_layers(parameters: plan.Parameters) -> plan.Parameters:
    """`parameters` with the lists of patterns replaced by `layers`, the rules of each linear by name."""
    patterns = LayerPatterns(weights=parameters["weights"], activations=parameters["activations"])
    kept = {key: value for key, value in parameters.items() if key not in ("weights", "activations")}
    return kept | {"layers": list_rules(parameters["model"], patterns)}


def list_rules(model: str, patterns: LayerPatterns) -> dict[str, LayerRule]:
    """The rules of each linear of a model, by name."""
    return {
        layer.name: {
            "weight": find_weight_rule(patterns.weights, layer.name),
            "activation": find_input_rule(patterns.activations, layer.name),
        }
        for layer in plan.list_layers(model)
    }


def count_iterations(parameters: plan.Parameters) -> int:
    """Learning iterations of a block's job, over all phases; 0 for an engine that learns nothing."""
    if parameters["engine"] != "adaround":
        return 0
    iterations: int = parameters["adaround_iterations"] * PHASE_COUNTS[parameters["reconstruction"]]
    return iterations


def count_rows(parameters: plan.Parameters) -> int:
    """Rows of a learning iteration of a block's job; 0 for an engine that learns nothing."""
    return parameters["adaround_batch"] if parameters["engine"] == "adaround" else 0


def list_names(model: str, block: str) -> list[str]:
    """Names of the linears of a block, or of those outside the blocks (`shared`)."""
    layers = plan.list_layers(model)
    return [layer.name for layer in layers if (layer.block or plan.SHARED) == block]


def encode_block(config: plan.Parameters, block: str) -> str:
    """Configuration values read by the job of `block`, as JSON for a command line; only the rules that match its
    layers.
    """
    names = list_names(config["model"], block)
    own = {
        key: [rule for rule in config[key] if any(fnmatchcase(name, rule["layers"]) for name in names)]
        for key in ("weights", "activations")
    }
    return plan.encode_values("optimise_block", config | own)


def find_conflicts(folder: Path, parameters: plan.Parameters) -> Iterator[str]:
    """Yield one line per finished block in `folder` made with other parameters, naming a difference.

    `parameters` are those of stage `optimise_block`.
    """
    for block in plan.list_block_names(parameters["model"]):
        yield from find_conflict(folder / f"{block}.json", select_block(parameters, block))


def find_conflict(seal: Path, wanted: plan.Parameters) -> Iterator[str]:
    """Yield a line if the block with seal file `seal` is finished and was not made with the parameters `wanted`."""
    if not seal.exists():
        return
    try:
        sealed = plan.take_sealed(read_plain_json(seal))
    except (OSError, ValueError, KeyError, TypeError):
        yield f"{seal} is damaged; delete it and run again"
        return
    if isinstance(sealed, dict) and sealed.get("block", wanted["block"]) != wanted["block"]:
        yield f"{seal} belongs to block {sealed['block']}; delete it and run again"
    elif difference := plan.describe_difference(sealed, wanted):
        yield f"{seal.with_suffix('')} was made with other parameters ({difference})"


def find_source_conflicts(results: Path, sources: Iterable[plan.Parameters]) -> Iterator[str]:
    """Yield a line per stage in `sources` whose recorded parameters differ, if there are finished blocks.

    The captured block inputs are temporary, so their parameters are taken from the parameter files of the stages.
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
