"""Which bits each layer's weight gets, so that the sum of what rounding costs is least and the size within a budget.

One choice of width per layer, costs and sizes that add up: the multiple-choice knapsack problem, solved exactly as an
integer linear program (Kellerer, Pferschy & Pisinger 2004, Knapsack Problems, ch. 11). That costs of layers add up is
what HAWQ-V2 and -V3 (Dong et al. 2020, arXiv:1911.03852; Yao et al. 2021, arXiv:2011.10680) assume too; here they are
measured and not modelled.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, eye_array, kron, vstack

from taqmlx.planning.bit_choices import GROUP_BITS, Choice, stored_bits
from taqmlx.planning.layer_rules import find_rule

# mm_03.image.attn.q_proj as mm_*, as mm_*.image.attn.q_proj, and as it is.
_PATTERNS = ((r"_\d+\..*", "_*"), (r"_\d+\.", "_*."), (r"^", ""))
# The sum of the largest costs as the solver sees it: its tolerances are absolute, about 1e-6.
_SCALE = 1e6


class Option(NamedTuple):
    """One choice for a layer: what it stands for, what it costs, and its size in bits."""

    choice: Choice
    cost: float
    size: float


def count_stored_bits(rules: Mapping[str, dict[str, Any]], elements: Mapping[str, int]) -> float:
    """Bits per weight that layers of so many `elements` take as stored by their rules, scales and biases included.

    A rule of 16 bits has neither; a rule per row counts as groups of 128.
    """
    sizes = {name: rule.get("group_size", 0) for name, rule in rules.items()}
    stored = {
        name: stored_bits(rule["bits"])
        + (GROUP_BITS / (128 if sizes[name] == "row" else sizes[name]) if sizes[name] else 0)
        for name, rule in rules.items()
    }
    return sum(stored[name] * count for name, count in elements.items()) / sum(elements.values())


def search_sizes(options: Mapping[str, Sequence[Option]], budget: float) -> dict[str, dict[str, Option]]:
    """By layer the choice of `mixed`, of least total cost whose sizes are `budget` bits at most together, and of
    `uniform`, the one choice for all layers of least total cost that fits; without such a choice `uniform` is empty.

    Raises ValueError if no choices are that small.
    """
    names = list(options)
    widest = max(map(len, options.values()))
    costs, sizes = np.full((2, len(names), widest), np.inf)
    for row, name in enumerate(names):
        costs[row, : len(options[name])] = [option.cost for option in options[name]]
        sizes[row, : len(options[name])] = [option.size for option in options[name]]
    # A layer with fewer choices repeats its last one.
    for row, name in enumerate(names):
        costs[row, len(options[name]) :] = costs[row, len(options[name]) - 1]
        sizes[row, len(options[name]) :] = sizes[row, len(options[name]) - 1]
    chosen = choose_bits(costs, sizes, budget)
    return {
        "uniform": find_uniform(options, budget),
        "mixed": {
            name: options[name][min(index, len(options[name]) - 1)] for name, index in zip(names, chosen, strict=True)
        },
    }


def find_uniform(options: Mapping[str, Sequence[Option]], budget: float) -> dict[str, Option]:
    """The choice all layers have, of least total cost within `budget` bits; empty if none fits."""
    by_choice = [{option.choice: option for option in own} for own in options.values()]
    shared = set.intersection(*(set(own) for own in by_choice))
    fitting = [choice for choice in shared if sum(own[choice].size for own in by_choice) <= budget]
    if not fitting:
        return {}
    best = min(fitting, key=lambda choice: (sum(own[choice].cost for own in by_choice), choice))
    return {name: own[best] for name, own in zip(options, by_choice, strict=True)}


def choose_bits(costs: np.ndarray, sizes: np.ndarray, budget: float) -> np.ndarray:
    """The choice for each layer, int (L,), of least total cost whose total size is `budget` at most.

    costs and sizes (L, W) of each layer's choices, finite and not negative. Raises ValueError if no choice is that
    small.
    """
    if sizes.min(axis=1).sum() > budget:
        raise ValueError(f"the least possible size is {sizes.min(axis=1).sum():g}, above {budget:g}")
    layers, widths = costs.shape
    largest = costs.max(axis=1).sum()
    one_each = kron(eye_array(layers), np.ones((1, widths)))
    # Sizes as shares of the budget, as tolerances are absolute here too.
    rows = vstack([one_each, csr_array(sizes.reshape(1, -1) / budget)])
    found = milp(
        (costs / largest * _SCALE if largest else costs).ravel(),
        integrality=np.ones(costs.size),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(rows, [*np.ones(layers), 0], np.ones(layers + 1)),
        options={"mip_rel_gap": 0},
    )
    if found.x is None:
        raise ValueError(f"the search for bits failed: {found.message}")
    chosen: np.ndarray = found.x.reshape(layers, widths).argmax(axis=1)
    return chosen


def write_rules(
    rules: Sequence[dict[str, Any]], names: Sequence[str], chosen: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """A short list of rules that gives the layers in `chosen` these, and leaves all others of `names` as by `rules`.

    From the general to the special, as the last that matches a layer holds: all blocks, a kind of layer in all blocks,
    single layers; of each what most of its layers have, where that leaves fewer exceptions.
    """
    wanted = {name: find_rule(rules, name) for name in names} | dict(chosen)
    written = [dict(rule) for rule in rules]
    for generalise in _PATTERNS:
        for pattern, group in group_layers(names, generalise).items():
            rule = find_most_common(wanted, group)
            kept = sum(find_rule(written, name) == wanted[name] for name in group)
            if sum(wanted[name] == rule for name in group) > kept:
                written.append({"layers": pattern} | rule)
    return drop_idle(written, len(rules), wanted)


def group_layers(names: Sequence[str], pattern: tuple[str, str]) -> dict[str, list[str]]:
    """The layers `names` by what a `pattern` (of re.sub) makes of their names."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(*pattern, name), []).append(name)
    return groups


def find_most_common(wanted: Mapping[str, dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The rule most of the layers `names` have; of several, the first one met."""
    key, _ = Counter(tuple(sorted(wanted[name].items())) for name in names).most_common(1)[0]
    return dict(key)


def drop_idle(rules: list[dict[str, Any]], count: int, wanted: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """`rules` without those of the first `count` that all layers in `wanted` can do without."""
    for rule in rules[:count]:
        rest = [other for other in rules if other is not rule]
        if all(find_rule(rest, name) == wanted[name] for name in wanted):
            rules = rest
    return rules
