"""Relations between keys are checked at planning: no job rejects a configuration that planning accepts."""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taqmlx.budgeting.shapes import read_shapes
from taqmlx.numerics.calibration_points import select_steps, shuffle_points
from taqmlx.numerics.weight_grid import fit_group_size
from taqmlx.planning import configuration, plan
from taqmlx.planning.bit_choices import list_choices
from taqmlx.planning.config_relations import FEWEST_POINTS, LARGEST_SEED, reject_mflux
from taqmlx.planning.layer_rules import UNQUANTIZED, find_rule
from taqmlx.planning.sizes import count_elements
from taqmlx.planning.stage_demands import reject_stage
from taqmlx.planning.stages import CaptureBlocks, CollectActivations, SearchBits
from taqmlx.reconstruction.block_assembly import split_points
from taqmlx.store.errors import UserError
from tests.tools.faults.test_fuzz_configurations import QUIETLY
from workflow_scripts.activations import collect_activations
from workflow_scripts.blocks import capture_blocks
from workflow_scripts.blocks.search_bits import search

SCHEMA = configuration.load_schema()
UNGUIDED = {"cfg_scale": 1, "evaluation_cfg": 1}
CURE = re.compile(r"^(\w+): .*; set (?:it|(\w+)) to (\d+) or (more|less)")
few = st.integers(1, 6)
small = st.fixed_dictionaries(
    {"trajectories": few, "steps": few, "selected_steps": few, "capture_points": few, "capture_shards": few},
    optional={
        "statistics_steps": st.sampled_from(["all", "key", 1, 2, 3]),
        "statistics_points": st.integers(0, 6),
        "statistics_shards": few,
        "held_out": st.floats(0.01, 0.99),
        "seed": st.sampled_from([0, 999_990, LARGEST_SEED - 5]),
        "evaluation_seed": st.sampled_from([0, 1_000_000, LARGEST_SEED]),
        "evaluation_pictures": st.integers(4, 9),
    },
)


@dataclass
class Points:
    """A calibration set, as far as the choice of points reads it."""

    steps: np.ndarray
    prompt_indices: np.ndarray

    def read(self, name):
        return getattr(self, name)


def gather(config, prompts):
    """The points as `gather_calibration` orders them."""
    steps = select_steps(config["steps"], config["selected_steps"])
    order = shuffle_points(config["trajectories"] * len(steps), config["seed"])
    every = np.repeat(np.arange(config["trajectories"]) % prompts, len(steps))
    return Points(np.tile(steps, config["trajectories"])[order], every[order])


def run_choices(config, folder):
    """What the jobs choose of the points, and reject: captured ones, those of a block, observed ones."""
    points = gather(config, 3)
    parameters = plan.select_stage(CaptureBlocks, config, ["a"] * 3)
    shares = [
        capture_blocks.select_shard(parameters, shard, None, points).points
        for shard in plan.list_stage_shards(config["capture_shards"])
    ]
    assert all(shares)
    captured = np.sort(np.concatenate(shares))
    training, held_out = split_points(captured, points.prompt_indices[captured], config["held_out"], config["seed"])
    assert len(training)
    assert len(held_out)
    observed = list(collect_activations.find_sigmas(points.steps, points.steps, config["statistics_steps"]))
    observing = plan.select_stage(CollectActivations, config, [])
    read = [
        collect_activations.choose_share(points.steps, observed, observing, shard)
        for shard in plan.list_stage_shards(config["statistics_shards"])
    ]
    assert set(points.steps[np.concatenate(read)]) == set(observed)


@settings(max_examples=200, **QUIETLY)
@given(changes=small)
def test_no_job_rejects_a_configuration_that_planning_accepts(tmp_path_factory, changes):
    try:
        config = configuration.complete(changes, SCHEMA)
    except ValueError:
        return
    run_choices(config, tmp_path_factory.getbasetemp())


@settings(max_examples=300, **QUIETLY)
@given(changes=small)
def test_the_cure_of_a_rejection_is_accepted(changes):
    for _ in range(6):
        try:
            configuration.complete(changes, SCHEMA)
            return
        except ValueError as error:
            key, other, value, _ = CURE.match(str(error)).groups()
        changes = changes | {other or key: int(value)}
    pytest.fail(f"still rejected: {changes}")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"steps": 1, "selected_steps": 1, "trajectories": 1},
            "trajectories: 1 of 1 selected step gives 1 calibration point, but a block needs 2, one of them held out;"
            " set trajectories to 2 or more",
        ),
        (
            {"steps": 1, "selected_steps": 1, "capture_points": 1},
            "capture_points: 1 is too few for a block, which needs 2, one of them held out; set it to 2 or more",
        ),
        (
            {"trajectories": 1, "selected_steps": 3, "capture_shards": 4},
            "capture_shards: 4 jobs cannot share 3 points; set it to 3 or less",
        ),
        ({"capture_groups": 6}, "capture_groups: 5 blocks have no 6 groups; set it to 5 or less"),
        (
            {"seed": LARGEST_SEED, "evaluation_seed": LARGEST_SEED, "evaluation_pictures": 4, "ablation_pictures": 4},
            f"evaluation_seed: the pictures use the seeds {LARGEST_SEED} to {LARGEST_SEED + 7}, some of which"
            f" trajectories start from ({LARGEST_SEED} to {LARGEST_SEED + 255}); set evaluation_seed to"
            f" {LARGEST_SEED - 8} or less",
        ),
    ],
)
def test_conflicts_once_found_by_jobs_are_rejected_at_planning(changes, line):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        configuration.complete(changes, SCHEMA)
    assert str(caught.value) == line


def test_a_block_needs_enough_points_to_hold_one_out():
    split_points(np.arange(FEWEST_POINTS), np.ones(FEWEST_POINTS), 0.5, 0)
    with pytest.raises(UserError, match="2 points"):
        split_points(np.arange(FEWEST_POINTS - 1), np.ones(FEWEST_POINTS - 1), 0.5, 0)


@pytest.mark.parametrize("model", plan.MODEL_BLOCKS)
def test_weight_shapes_are_those_of_the_models_and_every_group_size_divides_them(model):
    config = configuration.complete({"model": model} | (UNGUIDED if model in plan.UNGUIDED else {}), SCHEMA)
    shapes, elements = read_shapes(config), count_elements(config)
    assert elements == {name: int(np.prod(shape)) for name, shape in shapes.weights.items()}
    group_sizes = SCHEMA["properties"]["weights"]["items"]["properties"]["group_size"]["enum"]
    for _, columns in shapes.weights.values():
        assert all(fit_group_size(columns, group_size) for group_size in group_sizes)
        assert fit_group_size(columns, "row") == 128


SEARCHED = {
    "all": [{"layers": "*", "bits": 4}],
    "blocks": [{"layers": "mm_*", "bits": 4}],
    "without adaLN": [{"layers": "*", "bits": 4}, {"layers": "*adaLN*", "bits": 16}],
}


@pytest.mark.parametrize("rules", SEARCHED.values(), ids=SEARCHED)
def test_the_smallest_size_is_that_of_the_search(rules):
    """Of the embedded model: what planning takes is found, and what it rejects is not."""
    config = configuration.complete({"weights": rules}, SCHEMA)
    parameters = plan.select_stage(SearchBits, config, [])
    shapes = read_shapes(config)
    elements = {name: int(np.prod(shape)) for name, shape in shapes.weights.items()}
    resolved = {name: find_rule(config["weights"], name) for name in elements}
    costs = {
        name: dict.fromkeys(list_choices(shapes.weights[name][1]), 0.1)
        for name, rule in resolved.items()
        if rule["bits"] != UNQUANTIZED
    }
    for size in np.arange(2.25, 7, 0.01).round(2).tolist():
        try:
            reject_stage("search_bits", config | {"bits_per_weight": size})
        except ValueError as error:
            cure = float(re.search(r"^bits_per_weight: .* raise it to ([\d.]+) or more$", str(error)).group(1))
            continue
        break
    if size > 2.25:
        assert cure == size
        with pytest.raises(UserError, match="bits_per_weight"):
            search(replace(parameters, bits_per_weight=size - 0.02), resolved, costs, elements)
    search(replace(parameters, bits_per_weight=size), resolved, costs, elements)


@pytest.mark.parametrize(
    ("stage", "changes", "words"),
    [
        ("search_bits", {"weights": [{"layers": "*", "bits": 16}]}, "weights: all layers have 16 bits"),
        ("write_evaluation_prompts", {"model": "sd3-medium"}, "evaluation_prompts: sd3-medium has no captions"),
        ("draw_reference", {"model": "sd3-medium"}, "reference_pictures: none can be drawn for sd3-medium"),
        ("extract_features", {"model": "sd3-medium"}, "inception: the embedded model's classifier cannot judge"),
    ],
)
def test_a_requested_stage_without_input_is_rejected(stage, changes, words):
    config = configuration.complete(changes, SCHEMA)
    reject_stage("optimise_block", config)
    with pytest.raises(ValueError, match=rf"^{words}[^\n]+$"):
        reject_stage(stage, config)
    reject_stage(stage, configuration.complete({}, SCHEMA))


class TestMflux:
    FITTING: ClassVar = {"layout": "mflux", "model": "flux-schnell", "scale_dtype": "bfloat16"} | UNGUIDED

    def test_what_mflux_can_hold_is_taken(self):
        reject_mflux(configuration.complete(self.FITTING, SCHEMA))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"model": "sd3.5-large"}, "layout: mflux needs model flux-schnell, and sd3.5-large is set"),
            ({"scale_dtype": "float16"}, "layout: mflux needs scale_dtype bfloat16, and float16 is set"),
            ({"layout": "diffusionkit"}, "layout: diffusionkit does not fit mflux; set layout to mflux"),
            (
                {"activations": [{"layers": "*.mlp.fc2", "bits": 8, "policy": "static", "migration": True}]},
                r"activations: the migration of \*.mlp.fc2 divides",
            ),
        ],
    )
    def test_what_mflux_cannot_hold_is_rejected_before_any_job(self, changes, words):
        with pytest.raises(ValueError, match=words):
            reject_mflux(configuration.complete(self.FITTING | changes, SCHEMA))


@pytest.mark.parametrize("scale_dtype", ["float16", "bfloat16"])
def test_a_rule_with_another_stored_type_is_rejected(scale_dtype):
    other = {"float16": "bfloat16", "bfloat16": "float16"}[scale_dtype]
    rules = [{"layers": "*", "bits": 4}, {"layers": "mm_*", "bits": 4, "scale_dtype": other}]
    with pytest.raises(ValueError, match=rf"weights: mm_\* has the scale_dtype {other}, .* set the key scale_dtype"):
        configuration.complete({"weights": rules, "scale_dtype": scale_dtype}, SCHEMA)
