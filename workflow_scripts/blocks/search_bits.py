"""Choose bits and group size of every layer's weight, minimizing the error of the guided velocity at a given size.

Errors are assumed to add up over layers. The size counts all linear layers, scales and zero points included:
`bits_per_weight`, or the size of the configured rules if that is null.
"""

import argparse
from pathlib import Path

import numpy as np

from taqmlx.numerics.bit_search import Option, count_stored_bits, search_sizes, write_rules
from taqmlx.planning import plan
from taqmlx.planning.bit_choices import Costs
from taqmlx.planning.documents import ChosenBits, MixedBits, Rule
from taqmlx.planning.layer_rules import UNQUANTIZED, WeightRule, find_weight_rule
from taqmlx.planning.mflux_layout import MFLUX, list_joined
from taqmlx.planning.stage_demands import describe_small_size
from taqmlx.planning.stages import SearchBits
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.mixed_bits import FORMAT
from taqmlx.store.parameters import read_parameters
from taqmlx.store.weight_costs import read_costs


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(SearchBits, arguments.params)
    measured = read_costs(arguments.costs, parameters.model, parameters.weights)
    names = [layer.name for layer in plan.list_layers(parameters.model)]
    rules = {name: find_weight_rule(parameters.weights, name) for name in names}
    content = search(parameters, rules, measured.costs, measured.elements)
    write_json(arguments.out, {**FORMAT, **content, "ranks": measured.ranks, "origin": measured.origin})
    report(content, arguments.out)


def search(parameters: SearchBits, rules: dict[str, WeightRule], costs: Costs, elements: dict[str, int]) -> MixedBits:
    """Content of the output file: the best choices within the size, and the best uniform choice. Raises UserError."""
    total = sum(elements.values())
    plain = UNQUANTIZED * sum(count for name, count in elements.items() if name not in costs)
    budget = (parameters.bits_per_weight or count_stored_bits(rules, elements)) * total - plain
    units = list_units(parameters, costs)
    options = {unit: list_options(names, costs, elements) for unit, names in units.items()}
    try:
        found = search_sizes(options, budget)
    except ValueError:
        least = (plain + sum(min(option.size for option in own) for own in options.values())) / total
        raise UserError(describe_small_size("bits_per_weight", (budget + plain) / total, least)) from None
    described: dict[str, ChosenBits] = {
        name: {
            "bits_per_weight": float((plain + sum(option.size for option in own.values())) / total),
            "predicted": float(sum(option.cost for option in own.values())),
            "layers": {
                layer: {"bits": option.choice.bits, "group_size": option.choice.group_size}
                for unit, option in own.items()
                for layer in units[unit]
            },
        }
        for name, own in found.items()
    }
    chosen: dict[str, Rule] = {name: {**rules[name], **own} for name, own in described["mixed"]["layers"].items()}
    return {
        "model": parameters.model,
        "budget": (budget + plain) / total,
        "parameters": parameters.encode(),
        "uniform": described["uniform"],
        "mixed": described["mixed"],
        "rules": write_rules([dict(rule) for rule in parameters.weights], list(rules), chosen),
    }


def list_units(parameters: SearchBits, costs: Costs) -> dict[str, tuple[str, ...]]:
    """The layers that get one choice, by the first of them: each by itself, unless the layout joins some."""
    joined = list_joined(*plan.MODEL_BLOCKS[parameters.model]) if parameters.layout == MFLUX else []
    groups = {names[0]: names for names in joined if costs.keys() >= set(names)}
    others = {name for first, *rest in groups.values() for name in rest}
    return {name: groups.get(name, (name,)) for name in costs if name not in others}


def list_options(names: tuple[str, ...], costs: Costs, elements: dict[str, int]) -> list[Option]:
    """The choices that all layers `names` have, with their costs and sizes added."""
    shared = [choice for choice in costs[names[0]] if all(choice in costs[name] for name in names)]
    return [
        Option(
            choice,
            sum(costs[name][choice] for name in names),
            sum(choice.bits_per_weight * elements[name] for name in names),
        )
        for choice in shared
    ]


def report(content: MixedBits, path: Path) -> None:
    """Log the size and the predicted error of the choices."""
    for name, found in (("uniform", content["uniform"]), ("mixed", content["mixed"])):
        if found["layers"]:
            log.info(
                f"{name:<7} {found['bits_per_weight']:.3f} bits per weight, velocity predicted"
                f" {-10 * np.log10(found['predicted']):.2f} dB"
            )
    log.info(f"{len(content['mixed']['layers'])} layers in {len(content['rules'])} rules: {path}")


if __name__ == "__main__":
    run(main, build_parser(__doc__, "params", "costs", "out"))
