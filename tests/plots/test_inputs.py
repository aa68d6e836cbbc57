"""Names of layer inputs show their location."""

from taqmlx.planning.layers import list_linears
from taqmlx.plots.inputs import ROLES, find_nearest, list_block_names, list_outside, parse_names, select
from tests.plots.synthetic import list_inputs


def test_every_block_input_has_the_location_of_its_layers():
    roles = {"qkv": "qkv", "o": "o_proj", "fc1": "fc1", "fc2": "fc2"}
    for layer in list_linears(3, 2):
        if layer.role in roles:
            (place,) = parse_names([layer.input])
            # the MLP beside the attention reads what that reads
            role = "qkv" if (layer.stream, layer.role) == ("unified", "fc1") else roles[layer.role]
            assert place[1:] == (layer.block, layer.stream, role)


def test_inputs_of_embedders_the_modulation_and_the_final_layer_are_outside():
    outside = list_outside(parse_names(list_inputs(2)))
    assert {"modulation", "context_embedder", "final_layer.linear"} <= set(outside)
    assert not any(name.startswith("mm_") for name in outside)


def test_blocks_are_complete_and_in_order():
    places = parse_names(list_inputs(24))
    assert list_block_names(places) == [f"mm_{index:02d}" for index in range(24)]
    assert sum(len(select(places, stream, role)) for stream in ("image", "text") for role in ROLES) == 24 * 8 - 3


def test_the_nearest_step_replaces_one_that_was_not_observed():
    assert [find_nearest([0, 4, 8], wanted) for wanted in (0, 3, 5, 99)] == [0, 1, 1, 2]
