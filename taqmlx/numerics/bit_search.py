"""Bit width search: the weight bits of each layer that minimise the total rounding cost within a size budget.

Each layer takes one choice, and costs and sizes are additive. This is the multiple-choice knapsack problem, solved
exactly as an integer linear program (Kellerer, Pferschy & Pisinger 2004, Knapsack Problems, ch. 11). HAWQ-V2 and -V3
(Dong et al. 2020, arXiv:1911.03852; Yao et al. 2021, arXiv:2011.10680) also assume additive layer costs; here the costs
are measured, not modelled.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, eye_array, kron, vstack

from taqmlx.planning.bit_choices import GROUP_BITS, Choice, stored_bits
from taqmlx.planning.documents import Rule
from taqmlx.planning.layer_rules import UNQUANTIZED, WeightRule, find_rule

# Generalisations of mm_03.image.attn.q_proj: mm_*, mm_*.image.attn.q_proj, and the name itself.
_PATTERNS = ((r"_\d+\..*", "_*"), (r"_\d+\.", "_*."), (r"^", ""))
# Sum of the largest costs after scaling; the solver's tolerances are absolute, about 1e-6.
_SCALE = 1e6


class Option(NamedTuple):
    """One option for a layer: the choice, its cost, and its size in bits."""

    choice: Choice
    cost: float
    size: float


def count_stored_bits(rules: Mapping[str, WeightRule], elements: Mapping[str, int]) -> float:
    """Average stored bits per weight of layers with `elements` weights each under `rules`, scales and biases included.

    A 16-bit rule has no scales or biases; a per-row rule counts as groups of 128.
    """
    stored = {}
    for name, rule in rules.items():
        stored[name] = float(stored_bits(rule["bits"]))
        if rule["bits"] != UNQUANTIZED:
            size = rule["group_size"]
            stored[name] += GROUP_BITS / (128 if size == "row" else size)
    return sum(stored[name] * count for name, count in elements.items()) / sum(elements.values())


def search_sizes(options: Mapping[str, Sequence[Option]], budget: float) -> dict[str, dict[str, Option]]:
    """Option of each layer with the least total cost and a total size of at most `budget` bits.

    `mixed` chooses per layer. `uniform` uses the same choice for all layers and is empty if no single choice fits.
    Raises ValueError if no selection fits the budget.
    """
    names = list(options)
    widest = max(map(len, options.values()))
    costs, sizes = np.full((2, len(names), widest), np.inf)
    for row, name in enumerate(names):
        costs[row, : len(options[name])] = [option.cost for option in options[name]]
        sizes[row, : len(options[name])] = [option.size for option in options[name]]
    # A layer with fewer options repeats its last one.
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
    """Option of each layer if all share one choice, of least total cost within `budget` bits; empty if none fits."""
    by_choice = [{option.choice: option for option in own} for own in options.values()]
    shared = set.intersection(*(set(own) for own in by_choice))
    fitting = [choice for choice in shared if sum(own[choice].size for own in by_choice) <= budget]
    if not fitting:
        return {}
    best = min(fitting, key=lambda choice: (sum(own[choice].cost for own in by_choice), choice))
    return {name: own[best] for name, own in zip(options, by_choice, strict=True)}


def choose_bits(costs: np.ndarray, sizes: np.ndarray, budget: float) -> np.ndarray:
    """Index of the option chosen for each layer, int (L,): least total cost, total size at most `budget`.

    costs and sizes (L, W): of each layer's options, finite and not negative. Raises ValueError if no selection fits the
    budget, or if the solver fails.
    """
    if sizes.min(axis=1).sum() > budget:
        raise ValueError(f"the least possible size is {sizes.min(axis=1).sum():g}, above {budget:g}")
    layers, widths = costs.shape
    largest = costs.max(axis=1).sum()
    one_each = kron(eye_array(layers), np.ones((1, widths)))
    # Sizes are divided by the budget, because the tolerances of constraints are absolute too.
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


def write_rules(rules: Sequence[Rule], names: Sequence[str], chosen: Mapping[str, Rule]) -> list[Rule]:
    """Short list of rules that gives the layers in `chosen` their new rule and the other `names` their rule in `rules`.

    Rules are ordered from general to specific, because the last rule that matches a layer applies: all blocks, one kind
    of layer in all blocks, single layers. Each added rule is the most common one of its layers, and is added only if it
    leaves fewer exceptions.
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
    """Layer `names` grouped by their name after re.sub with `pattern` (pattern, replacement)."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(*pattern, name), []).append(name)
    return groups


def find_most_common(wanted: Mapping[str, Rule], names: Sequence[str]) -> Rule:
    """Most common rule of the layers `names`; the first one seen on a tie."""
    key, _ = Counter(tuple(sorted(wanted[name].items())) for name in names).most_common(1)[0]
    return dict(key)


def drop_idle(rules: list[Rule], count: int, wanted: Mapping[str, Rule]) -> list[Rule]:
    """`rules` without those of the first `count` whose removal changes the rule of no layer in `wanted`."""
    for rule in rules[:count]:
        rest = [other for other in rules if other is not rule]
        if all(find_rule(rest, name) == wanted[name] for name in wanted):
            rules = rest
    return rules
