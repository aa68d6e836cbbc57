"""The bit search finds the least cost within the size, as exhaustive search does, and writes it as rules."""

import itertools

import numpy as np
import pytest

from taqmlx.numerics.bit_search import Option, choose_bits, count_stored_bits, find_uniform, search_sizes, write_rules
from taqmlx.planning import configuration
from taqmlx.planning.bit_choices import WIDTHS, Choice, list_choices
from taqmlx.planning.layer_rules import find_rule
from taqmlx.planning.layers import list_linears

NAMES = [layer.name for layer in list_linears(5)]
IN_BLOCKS = [name for name in NAMES if name.startswith("mm_")]
RULES = configuration.complete({}, configuration.load_schema())["weights"]
PAPER = configuration.complete(
    {"weights": [{"layers": "mm_*", "bits": 4}, {"layers": "*adaLN_modulation", "bits": 8}]},
    configuration.load_schema(),
)["weights"]


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
def test_the_search_equals_an_exhaustive_search(seed, share):
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


def test_costs_of_zero_are_accepted():
    _, sizes = pose(0)
    assert add_up(sizes, choose_bits(np.zeros(sizes.shape), sizes, sizes[:, 1].sum())) <= sizes[:, 1].sum()


# Options


def draw_options(seed: int, names: str = "abcd", widths: tuple[int, ...] = (64, 128, 192, 256)) -> dict:
    """Options of layers of 8 outputs and the given inputs: every choice that fits, more costly where it is smaller."""
    rng = np.random.default_rng(seed)
    return {
        name: [
            Option(choice, 10.0 ** rng.uniform(-4, -1) * 4.0**-choice.bits, 8 * width * choice.bits_per_weight)
            for choice in list_choices(width)
        ]
        for name, width in zip(names, widths, strict=True)
    }


def total(found: dict[str, Option], what: str) -> float:
    return sum(getattr(option, what) for option in found.values())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_kept_options_are_those_of_an_exhaustive_search(seed, share):
    """Of layers with six choices, and with twelve: what fits a layer differs with its width."""
    options = draw_options(seed)
    assert [len(own) for own in options.values()] == [6, 12, 6, 12]
    least, most = (sum(pick(option.size for option in own) for own in options.values()) for pick in (min, max))
    budget = least + share * (most - least)
    mixed = search_sizes(options, budget)["mixed"]
    tried = (dict(zip(options, chosen, strict=True)) for chosen in itertools.product(*options.values()))
    best = min(total(chosen, "cost") for chosen in tried if total(chosen, "size") <= budget)
    assert all(option in options[name] for name, option in mixed.items())
    assert total(mixed, "size") <= budget
    assert total(mixed, "cost") == pytest.approx(best, rel=1e-9)


def test_the_order_of_a_layers_options_does_not_matter():
    options = draw_options(1)
    turned = {name: own[::-1] for name, own in options.items()}
    budget = 0.5 * sum(max(option.size for option in own) for own in options.values())
    assert search_sizes(options, budget) == search_sizes(turned, budget)


def test_the_uniform_choice_is_the_best_that_every_layer_has():
    options = draw_options(2)
    budget = sum(4.5 / option.choice.bits_per_weight * option.size for option in (own[0] for own in options.values()))
    fitting = [Choice(bits, 64) for bits in (2, 3, 4)]  # groups of 128 do not divide every width
    costs = {
        choice: sum(option.cost for own in options.values() for option in own if option.choice == choice)
        for choice in fitting
    }
    uniform = find_uniform(options, budget)
    assert {option.choice for option in uniform.values()} == {min(costs, key=costs.get)}
    assert total(uniform, "size") <= budget


@pytest.mark.parametrize("bits", [3, 4, 5, 6])
def test_mixed_bits_predict_a_smaller_error_than_uniform_bits_of_the_same_size(bits):
    options = draw_options(3)
    size = sum(option.size for own in options.values() for option in own if option.choice == Choice(bits, 64))
    found = search_sizes(options, size)
    assert total(found["mixed"], "size") <= size
    assert total(found["mixed"], "cost") < total(found["uniform"], "cost")


def test_without_a_common_choice_there_is_no_uniform_one():
    options = {"a": [Option(Choice(4, 64), 1, 4.5)], "b": [Option(Choice(4, 128), 1, 4.25)]}
    found = search_sizes(options, 9)
    assert found == {"uniform": {}, "mixed": {name: own[0] for name, own in options.items()}}


def test_a_size_below_the_smallest_options_is_rejected():
    options = draw_options(0)
    least = {name: min(own, key=lambda option: option.size) for name, own in options.items()}
    assert search_sizes(options, total(least, "size"))["mixed"] == least
    assert find_uniform(options, total(least, "size")) == {}  # 2 bits in groups of 64 are larger
    with pytest.raises(ValueError, match=f"the least possible size is {total(least, 'size'):g}"):
        search_sizes(options, total(least, "size") - 1)


@pytest.mark.parametrize(
    ("bits", "group_size", "stored"), [(4, 64, 4.5), (3, 32, 4.0), (7, 64, 8.5), (8, 128, 8.25), (2, "row", 2.25)]
)
def test_stored_bits_include_scales_and_biases(bits, group_size, stored):
    assert count_stored_bits({"a": {"bits": bits, "group_size": group_size}}, {"a": 1024}) == stored


def test_stored_bits_include_unquantized_layers():
    rules = {"a": {"bits": 4, "group_size": 64}, "b": {"bits": 16}, "c": {"bits": 8, "group_size": 128}}
    assert count_stored_bits(rules, {"a": 600, "b": 100, "c": 300}) == pytest.approx(0.6 * 4.5 + 1.6 + 0.3 * 8.25)


# Rules


def resolve(rules) -> dict[str, dict]:
    return {name: find_rule(rules, name) for name in NAMES}


def draw_bits(seed: int, names=NAMES) -> dict[str, dict]:
    """What a search may choose: bits and a group size for each layer."""
    rng = np.random.default_rng(seed)
    return {
        name: {
            "bits": int(rng.choice(WIDTHS, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])),
            "group_size": int(rng.choice([64, 128], p=[0.8, 0.2])),
        }
        for name in names
    }


def change(rules, chosen) -> dict[str, dict]:
    """The rules of all layers, with what was `chosen`."""
    return {name: rule | chosen.get(name, {}) for name, rule in resolve(rules).items()}


def write(rules, chosen) -> list[dict]:
    whole = change(rules, chosen)
    return write_rules(rules, NAMES, {name: whole[name] for name in chosen})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rules", "names"), [(RULES, NAMES), (PAPER, IN_BLOCKS)])
def test_the_rules_give_the_chosen_bits_and_change_nothing_else(seed, rules, names):
    chosen = draw_bits(seed, names)
    written = write(rules, chosen)
    assert resolve(written) == change(rules, chosen)
    assert configuration.complete({"weights": written}, configuration.load_schema())["weights"] == written
    assert len(written) < len(names)


def test_ranges_and_unquantized_layers_follow_the_configuration():
    own = [
        {"layers": "mm_*", "bits": 4, "group_size": 64, "symmetric": False, "range": "search"},
        {"layers": "mm_*.fc2", "bits": 4, "group_size": 32, "symmetric": True, "range": "absmax"},
        {"layers": "mm_02*", "bits": 16},
        {"layers": "final_layer*", "bits": 8, "group_size": "row", "symmetric": False, "range": "absmax"},
    ]
    chosen = {name: choice for name, choice in draw_bits(5, IN_BLOCKS).items() if not name.startswith("mm_02")}
    assert resolve(write(own, chosen)) == change(own, chosen)


def list_written(rules) -> list[tuple]:
    return [(rule["layers"], rule["bits"], rule["group_size"]) for rule in rules]


def test_uniform_bits_are_one_rule():
    """And one for each layer outside the blocks, which no pattern names together."""
    written = write(RULES, {name: {"bits": 3, "group_size": 128} for name in NAMES})
    outside = [name for name in NAMES if name not in IN_BLOCKS]
    assert sorted(list_written(written)) == sorted((name, 3, 128) for name in ["mm_*", *outside])


def test_bits_equal_to_the_configuration_need_no_rules():
    assert write(RULES, {name: {"bits": 4, "group_size": 64} for name in NAMES}) == RULES


def test_layers_outside_the_blocks_keep_their_rule():
    written = write(RULES, {name: {"bits": 3, "group_size": 64} for name in IN_BLOCKS})
    assert list_written(written) == [("*", 4, 64), ("mm_*", 3, 64)]


def test_a_kind_of_layer_with_common_bits_is_one_rule():
    bits = {name: 6 if name.endswith("image.attn.o_proj") else 2 for name in IN_BLOCKS} | {"mm_01.text.mlp.fc1": 5}
    written = write(RULES, {name: {"bits": width, "group_size": 64} for name, width in bits.items()})
    assert list_written(written)[1:] == [
        ("mm_*", 2, 64),
        ("mm_*.image.attn.o_proj", 6, 64),
        ("mm_01.text.mlp.fc1", 5, 64),
    ]
