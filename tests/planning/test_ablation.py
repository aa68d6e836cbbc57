"""The ablation: every row has its own configuration and quantizes what its title says."""

import pytest

from taqmlx.planning import ablation, block_plan, configuration, plan, variants

SCHEMA = configuration.load_schema()
QKV, OUT, FC1, FC2 = (f"mm_02.text.{layer}" for layer in ("attn.k_proj", "attn.o_proj", "mlp.fc1", "mlp.fc2"))
MODULATION = "mm_02.text.adaLN_modulation"


def complete(row):
    return configuration.complete(variants.change({}, row), SCHEMA)


def resolve(row):
    """The bits of weight and input of each kind of layer."""
    parameters = plan.select_parameters("optimise_block", complete(row), [])
    layers = block_plan.select_block(parameters, "mm_02")["layers"]
    return {
        name: (layers[name]["weight"]["bits"], layers[name]["activation"]["bits"])
        for name in (QKV, OUT, FC1, FC2, MODULATION)
    }


EVERYTHING = {QKV: (4, 8), OUT: (4, 8), FC1: (4, 8), FC2: (4, 8), MODULATION: (8, 16)}
NOTHING = dict.fromkeys(EVERYTHING, (16, 16))
ATTENTION, FEED_FORWARD = {QKV: (4, 8), OUT: (4, 8)}, {FC1: (4, 8), FC2: (4, 8)}


@pytest.mark.parametrize(
    ("row", "bits"),
    [
        ("paper_rtn", EVERYTHING),
        ("paper_separate_w4", {name: (weight, 16) for name, (weight, _) in EVERYTHING.items()}),
        ("paper_separate", EVERYTHING),
        ("paper_joint", EVERYTHING),
        ("paper_attention", NOTHING | ATTENTION),
        ("paper_feed_forward", NOTHING | FEED_FORWARD),
        ("paper_feed_forward_no_gelu", NOTHING | FEED_FORWARD | {FC2: (4, 16)}),
        ("paper_no_gelu", EVERYTHING | {FC2: (4, 16)}),
        ("paper_shift", EVERYTHING),
        ("paper_migration", EVERYTHING),
    ],
)
def test_a_row_quantizes_what_its_title_says(row, bits):
    assert resolve(row) == bits


@pytest.mark.parametrize("row", ablation.ROWS)
def test_grids_are_those_of_the_paper(row):
    parameters = plan.select_parameters("optimise_block", complete(row), [])
    rules = block_plan.select_block(parameters, "mm_02")["layers"]
    for name in (QKV, OUT, FC1, FC2):
        weight, activation = rules[name]["weight"], rules[name]["activation"]
        assert weight["bits"] == 16 or (weight["group_size"], weight["symmetric"]) == ("row", False)
        assert activation["bits"] == 16 or activation["policy"] == "static"


@pytest.mark.parametrize(
    ("lower", "upper", "changed"),
    [
        ("paper_separate_w4", "paper_separate", "activations"),
        ("paper_separate", "paper_joint", "reconstruction"),
        ("paper_joint", "paper_shift", "activations"),
        ("paper_shift", "paper_migration", "activations"),
        ("paper_joint", "paper_no_gelu", "activations"),
        ("paper_feed_forward", "paper_feed_forward_no_gelu", "activations"),
    ],
)
def test_one_thing_changes_at_a_time(lower, upper, changed):
    below, above = complete(lower), complete(upper)
    assert {key for key in below if below[key] != above[key]} == {changed}


def test_the_ablation_is_an_evaluation_of_its_rows_with_its_own_number_of_pictures():
    config = configuration.complete({"ablation_pictures": 64}, SCHEMA)
    changed = ablation.change(config)
    assert {key for key in config if config[key] != changed[key]} == {"evaluation_pictures", "evaluation_variants"}
    assert changed["evaluation_pictures"] == 64
    assert changed["evaluation_variants"][0] == "fp"
    assert set(changed["evaluation_variants"]) <= variants.VARIANTS.keys()
    assert ablation.PAPER_FID.keys() <= set(changed["evaluation_variants"])
