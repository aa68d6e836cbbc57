"""The search finds the least cost within the budget, as trying everything does, and says it in rules."""

import itertools

import numpy as np
import pytest

from workflow_scripts import configuration
from workflow_scripts.mmdit.layers import list_linears
from workflow_scripts.numerics.bit_search import (
    WIDTHS,
    choose_bits,
    choose_uniform,
    count_stored_bits,
    write_rules,
)
from workflow_scripts.numerics.layer_rules import find_rule
from workflow_scripts.numerics.weight_grid import choose_grid

NAMES = [layer.name for layer in list_linears(5)]
IN_BLOCKS = [name for name in NAMES if name.startswith("mm_")]
RULES = configuration.complete({}, configuration.load_schema())["weights"]


def pose(seed: int, layers: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Costs over several orders of magnitude that fall with the bits, and sizes that rise."""
    rng = np.random.default_rng(seed)
    costs = 10.0 ** rng.uniform(-4, 0, (layers, 1)) * 4.0 ** -np.array(WIDTHS) * rng.uniform(0.5, 2, (layers, 6))
    return costs, rng.integers(1, 9, (layers, 1)) * 1000 * (np.array(WIDTHS) + 0.5)


def try_everything(costs: np.ndarray, sizes: np.ndarray, budget: float) -> float:
    """The least cost of all choices within the budget."""
    layers = range(len(costs))
    return min(
        sum(costs[layer, width] for layer, width in zip(layers, chosen, strict=True))
        for chosen in itertools.product(range(costs.shape[1]), repeat=len(costs))
        if sum(sizes[layer, width] for layer, width in zip(layers, chosen, strict=True)) <= budget
    )


def add_up(values: np.ndarray, chosen: np.ndarray) -> float:
    return values[np.arange(len(values)), chosen].sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_the_search_equals_trying_everything(seed, share):
    costs, sizes = pose(seed)
    least, most = sizes.min(axis=1).sum(), sizes.max(axis=1).sum()
    budget = least + share * (most - least)
    chosen = choose_bits(costs, sizes, budget)
    assert add_up(sizes, chosen) <= budget
    assert add_up(costs, chosen) == pytest.approx(try_everything(costs, sizes, budget), rel=1e-9)


@pytest.mark.parametrize("factor", [1e-12, 1e6])
def test_the_unit_of_the_costs_does_not_matter(factor):
    costs, sizes = pose(7, 12)
    budget = 0.6 * sizes.max(axis=1).sum()
    chosen = choose_bits(costs, sizes, budget)
    assert add_up(costs, choose_bits(factor * costs, sizes, budget)) == pytest.approx(add_up(costs, chosen), rel=1e-9)


def test_mixed_bits_predict_no_more_than_uniform_ones_of_the_same_size():
    costs, sizes = pose(3, 40)
    for width in range(1, len(WIDTHS) - 1):
        budget = sizes[:, width].sum()
        assert choose_uniform(sizes, budget) == width
        assert add_up(costs, choose_bits(costs, sizes, budget)) < costs[:, width].sum()


def test_costs_of_nothing_are_searched_too():
    _, sizes = pose(0)
    assert add_up(sizes, choose_bits(np.zeros(sizes.shape), sizes, sizes[:, 1].sum())) <= sizes[:, 1].sum()


@pytest.mark.parametrize("search", [choose_uniform, lambda sizes, budget: choose_bits(sizes, sizes, budget)])
def test_a_budget_below_the_smallest_widths_is_refused(search):
    _, sizes = pose(0)
    assert not np.any(search(sizes, sizes[:, 0].sum()))
    with pytest.raises(ValueError, match=f"the least possible size is {sizes[:, 0].sum():g}"):
        search(sizes, sizes[:, 0].sum() - 1)


@pytest.mark.parametrize(
    ("bits", "group_size", "stored"), [(4, 64, 4.5), (3, 32, 4.0), (7, 64, 8.5), (8, 128, 8.25), (2, "row", 2.25)]
)
def test_stored_bits_have_scales_and_biases(bits, group_size, stored):
    weight = np.random.default_rng(0).standard_normal((8, 128)).astype(np.float32)
    rule = {"bits": bits, "group_size": group_size, "symmetric": False, "range": "absmax"}
    assert count_stored_bits(choose_grid(weight, rule)) == stored


# Rules


def resolve(rules) -> dict[str, dict]:
    return {name: find_rule(rules, name) for name in NAMES}


def draw_bits(seed: int) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    return {name: int(rng.choice(WIDTHS, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])) for name in IN_BLOCKS}


@pytest.mark.parametrize("seed", range(3))
def test_the_rules_give_the_searched_bits_and_nothing_else_changes(seed):
    bits = draw_bits(seed)
    written = write_rules(RULES, NAMES, bits)
    before, after = resolve(RULES), resolve(written)
    assert after == {name: before[name] | ({"bits": bits[name]} if name in bits else {}) for name in NAMES}
    assert configuration.complete({"weights": written}, configuration.load_schema())["weights"] == written
    assert len(written) < len(IN_BLOCKS)


def test_groups_ranges_and_unquantized_layers_stay_those_of_the_configuration():
    own = [
        {"layers": "mm_*", "bits": 4, "group_size": 64, "symmetric": False, "range": "search"},
        {"layers": "mm_*.fc2", "bits": 4, "group_size": 32, "symmetric": True, "range": "absmax"},
        {"layers": "mm_02*", "bits": 16},
        {"layers": "final_layer*", "bits": 8, "group_size": "row", "symmetric": False, "range": "absmax"},
    ]
    bits = {name: width for name, width in draw_bits(5).items() if not name.startswith("mm_02")}
    before, after = resolve(own), resolve(write_rules(own, NAMES, bits))
    assert after == {name: before[name] | ({"bits": bits[name]} if name in bits else {}) for name in NAMES}


def test_uniform_bits_are_one_rule():
    """And the one that the layers outside the blocks have."""
    written = write_rules(RULES, NAMES, dict.fromkeys(IN_BLOCKS, 3))
    assert [(rule["layers"], rule["bits"]) for rule in written] == [("*adaLN_modulation", 8), ("mm_*", 3)]


def test_a_kind_of_layer_with_bits_of_its_own_is_one_rule():
    bits = {name: 6 if name.endswith("image.attn.o_proj") else 2 for name in IN_BLOCKS} | {"mm_01.text.mlp.fc1": 5}
    written = write_rules(RULES, NAMES, bits)
    assert [(rule["layers"], rule["bits"]) for rule in written[1:]] == [
        ("mm_*", 2),
        ("mm_*.image.attn.o_proj", 6),
        ("mm_01.text.mlp.fc1", 5),
    ]
