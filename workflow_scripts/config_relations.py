"""What the keys of a configuration demand of each other, checked before any job. Standard library only.

Every function raises ValueError, in one line, with a change that is possible.
"""

import difflib
import math
from collections.abc import Callable
from typing import Any

from workflow_scripts import plan
from workflow_scripts.budgeting.sizes import count_elements
from workflow_scripts.mmdit.layers import list_linears
from workflow_scripts.numerics.layer_rules import UNQUANTIZED, find_rule
from workflow_scripts.numerics.step_choice import choose_steps
from workflow_scripts.variants import VARIANTS

LARGEST_SEED = 2**31 - 1
FEWEST_POINTS = 2  # of a block: one to learn from, one held out
FEWEST_BITS = 2  # that the search for mixed bits gives a weight
GROUP_BITS = 32  # of a group's scale and bias, fp16 both
ROW_GROUP = 128  # a row's grid is stored for each of the largest groups

Config = dict[str, Any]


def refuse_contradictions(config: Config) -> None:
    """Raise ValueError for values that no run could go through with, whatever is asked of it."""
    for refuse in (
        refuse_steps,
        refuse_few_points,
        refuse_migration,
        refuse_thresholds,
        refuse_guidance,
        refuse_variants,
        refuse_seeds,
    ):
        refuse(config)


def refuse_steps(config: Config) -> None:
    """Raise ValueError for more steps than there are, or fewer points than steps that need one each."""
    steps, selected = config["steps"], config["selected_steps"]
    if selected > steps:
        raise ValueError(
            f"selected_steps: {selected} of {steps} steps cannot be selected;"
            f" set selected_steps to {steps} or less, or raise steps"
        )
    if config["capture_points"] < selected:
        raise ValueError(
            f"capture_points: {config['capture_points']} is too few for {selected} selected steps;"
            f" set it to {selected} or more, or lower selected_steps"
        )
    observed = len(choose_steps(config["statistics_steps"], range(selected)))
    if 0 < config["statistics_points"] < observed:
        raise ValueError(
            f"statistics_points: {config['statistics_points']} is too few for the {observed} steps that"
            f" statistics_steps takes; set it to {observed} or more, or to 0 for all"
        )


def refuse_few_points(config: Config) -> None:
    """Raise ValueError for fewer points than blocks are learned on, or than jobs that share them."""
    trajectories, selected = config["trajectories"], config["selected_steps"]
    if trajectories * selected < FEWEST_POINTS:
        raise ValueError(
            f"trajectories: {trajectories} of {selected} selected step is {trajectories * selected} calibration point,"
            f" and a block needs {FEWEST_POINTS}, one of them held out; set trajectories to {FEWEST_POINTS} or more"
        )
    if config["capture_points"] < FEWEST_POINTS:
        raise ValueError(
            f"capture_points: {config['capture_points']} is too few for a block, which needs {FEWEST_POINTS}, one of"
            f" them held out; set it to {FEWEST_POINTS} or more"
        )
    points = min(config["capture_points"], trajectories * selected)
    if config["capture_shards"] > points:
        raise ValueError(
            f"capture_shards: {config['capture_shards']} jobs cannot share {points} points; set it to {points} or less"
        )


def refuse_migration(config: Config) -> None:
    """Raise ValueError for a migration that could not be learned."""
    for rule in config["activations"]:
        if not rule.get("migration"):
            continue
        if config["engine"] != "adaround":
            raise ValueError(
                f"activations: the migration of {rule['layers']} is learned, which the engine {config['engine']} does"
                " not do; set migration to false, or engine to adaround"
            )
        if rule["policy"] == "dynamic":
            raise ValueError(
                f"activations: the migration of {rule['layers']} needs a step size, and the policy dynamic keeps none;"
                " set migration to false, or policy to static or lut"
            )


def refuse_thresholds(config: Config) -> None:
    """Raise ValueError for thresholds of which the one for 4 bits is the higher."""
    for kind, (four, six) in config["multitier_thresholds"].items():
        if four > six:
            raise ValueError(
                f"multitier_thresholds.{kind}: {four:g} is above {six:g}; the first is where 4 bits end, the second"
                " where 6 end"
            )


def refuse_guidance(config: Config) -> None:
    """Raise ValueError for guidance, or a negative prompt, asked of a model that knows none."""
    if config["model"] not in plan.UNGUIDED:
        return
    for key in ("cfg_scale", "evaluation_cfg"):
        if config[key] != plan.NO_GUIDANCE:
            raise ValueError(
                f"{key}: {config['model']} draws without guidance, so {config[key]:g} has no meaning; set it to"
                f" {plan.NO_GUIDANCE:g}"
            )
    if config["negative_prompt"]:
        raise ValueError(
            f"negative_prompt: {config['model']} draws without guidance and reads no negative prompt; leave it empty"
        )


def refuse_variants(config: Config) -> None:
    """Raise ValueError for an unknown variant."""
    for name in config["evaluation_variants"]:
        if name not in VARIANTS:
            near = difflib.get_close_matches(name, VARIANTS, n=1, cutoff=0.0)[0]
            raise ValueError(f"evaluation_variants: {name} is unknown; did you mean {near}?")


def refuse_seeds(config: Config) -> None:
    """Raise ValueError for pictures whose noise a trajectory starts from, or whose seeds go beyond the largest."""
    first = config["evaluation_seed"]
    # Other seeds for the noise floor follow those of the pictures.
    used = 2 * max(config["evaluation_pictures"], config["ablation_pictures"])
    start, end, last = config["seed"], config["seed"] + config["trajectories"], LARGEST_SEED + 1 - used
    if first < end and start < first + used:
        cure = f"{end} or more" if end <= last else f"{start - used} or less"
        raise ValueError(
            f"evaluation_seed: the pictures use the seeds {first} to {first + used - 1}, some of which trajectories"
            f" start from ({start} to {end - 1}); set evaluation_seed to {cure}"
        )
    if first > last:
        raise ValueError(f"evaluation_seed: {first} leaves too few seeds; set it to {last} or less")


def list_block_rules(config: Config) -> dict[str, Config]:
    """The weight rules of the blocks' quantized layers by name."""
    layers = list_linears(*plan.MODEL_BLOCKS[config["model"]])
    rules = {layer.name: find_rule(config["weights"], layer.name) for layer in layers if layer.block}
    return {name: rule for name, rule in rules.items() if rule["bits"] != UNQUANTIZED}


def refuse_mixed_bits(config: Config) -> None:
    """Raise ValueError if there is no weight to search bits for, or not even the fewest fit the budget."""
    elements, rules = count_elements(config["model"]), list_block_rules(config)
    if not rules:
        raise ValueError("weights: all layers of the blocks have 16 bits, so there are none to choose; lower some")
    groups = {name: ROW_GROUP if rule["group_size"] == "row" else rule["group_size"] for name, rule in rules.items()}
    stored = sum(elements[name] * (FEWEST_BITS + GROUP_BITS / groups[name]) for name in rules)
    least, budget = stored / sum(elements[name] for name in rules), config["mixed_bits_budget"]
    if least > budget:
        raise ValueError(
            f"mixed_bits_budget: {budget:g} bits per weight are too few, with scales and zero points {least:.3g} is the"
            f" least possible; raise it to {math.ceil(least * 100) / 100:g} or more"
        )


def refuse_no_captions(config: Config) -> None:
    """Raise ValueError if there is nothing to evaluate on."""
    if config["model"] != plan.EMBEDDED and not config["evaluation_prompts"]:
        raise ValueError(f"evaluation_prompts: {config['model']} has no captions of its own; name a file of prompts")


def refuse_no_reference(config: Config) -> None:
    """Raise ValueError if there are no real pictures, and none can be drawn."""
    if config["model"] != plan.EMBEDDED and not config["reference_pictures"]:
        raise ValueError(f"reference_pictures: none can be drawn for {config['model']}; name a folder of pictures")


def refuse_no_judge(config: Config) -> None:
    """Raise ValueError if nothing can read the features of pictures."""
    if config["model"] != plan.EMBEDDED and not config["inception"]:
        raise ValueError(
            f"inception: the embedded model's classifier cannot judge pictures of {config['model']}; name the"
            " weights of an Inception v3"
        )


# What single stages demand, asked only where they are part of what is to be made.
STAGE_DEMANDS: dict[str, Callable[[Config], None]] = {
    "search_bits": refuse_mixed_bits,
    "write_evaluation_prompts": refuse_no_captions,
    "draw_reference": refuse_no_reference,
    "extract_features": refuse_no_judge,
}


def refuse_stage(stage: str, config: Config) -> None:
    """Raise ValueError for a stage that these values leave nothing to work on."""
    if stage in STAGE_DEMANDS:
        STAGE_DEMANDS[stage](config)
