"""Error of quantizing each weight: `<results>/weight_costs.json`.

`layers` has for each linear its `elements` and, if it is quantized, `costs`: [bits, group size, error] of every choice;
the error is the relative squared error of the guided velocity with only this layer quantized. `ranks`: by layer input,
the number of directions that hold 99.9 % of its energy.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from taqmlx.planning import plan
from taqmlx.planning.bit_choices import Choice, Costs
from taqmlx.planning.documents import Inputs
from taqmlx.planning.layer_rules import WeightPattern
from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.files import read_json, write_json

FORMAT = {"format": "weight-costs", "version": 1}


class WeightCosts(NamedTuple):
    """costs by layer and choice; elements of every linear; ranks by layer input; origin: inputs of the measurement."""

    costs: Costs
    elements: dict[str, int]
    ranks: dict[str, int]
    origin: Inputs


def write_costs(
    path: Path,
    parameters: plan.Parameters,
    costs: Costs,
    elements: Mapping[str, int],
    ranks: Mapping[str, int],
    origin: Inputs,
) -> None:
    """Write the measured costs."""
    layers = {
        name: {"elements": count, "costs": [[*choice, cost] for choice, cost in costs.get(name, {}).items()]}
        for name, count in elements.items()
    }
    content = {"parameters": parameters, "layers": layers, "ranks": dict(ranks), "origin": origin}
    write_json(path, FORMAT | content)


def read_costs(path: Path, model: str, rules: Sequence[WeightPattern]) -> WeightCosts:
    """Read `path`. Raises UserError if it is missing, damaged, or of another model or other `rules`."""
    content = read_json(path, **FORMAT)
    wanted = {"model": model, "weights": rules}
    with report_damage(path):
        found = {key: content["parameters"][key] for key in wanted}
        if difference := plan.describe_difference(found, wanted):
            raise UserError(f"{path} was measured by other rules ({difference}); delete it and run measure_costs again")
        costs = {
            name: {Choice(bits, size): cost for bits, size, cost in layer["costs"]}
            for name, layer in content["layers"].items()
            if layer["costs"]
        }
        elements = {name: layer["elements"] for name, layer in content["layers"].items()}
        return WeightCosts(costs, elements, content["ranks"], content["origin"])
