"""Consistency checks between configuration keys, made before any job. Standard library only.

Every check raises ValueError with a one-line message that suggests a valid change.
"""

import difflib

from taqmlx.planning import plan
from taqmlx.planning.capture_groups import describe_many_groups
from taqmlx.planning.documents import Config, Rule
from taqmlx.planning.folds import FOLDED_ROLES, list_sites, select_sites
from taqmlx.planning.layer_rules import MEASURED_POLICIES, UNQUANTIZED, read_scale_dtype
from taqmlx.planning.mflux_layout import MFLUX, MFLUX_DTYPE, MFLUX_MODEL
from taqmlx.planning.stage_demands import describe_few_points, describe_many_shards
from taqmlx.planning.step_choice import select_timesteps
from taqmlx.planning.variants import VARIANTS

LARGEST_SEED = 2**31 - 1
FEWEST_POINTS = 2  # calibration points per block: one for training, one held out


def reject_contradictions(config: Config) -> None:
    """Raise ValueError for combinations of values with which no run can succeed, whatever its target."""
    for reject in (
        reject_steps,
        reject_folds,
        reject_few_points,
        reject_many_groups,
        reject_migration,
        reject_scale_dtypes,
        reject_layout,
        reject_thresholds,
        reject_guidance,
        reject_variants,
        reject_seeds,
    ):
        reject(config)


def reject_steps(config: Config) -> None:
    """Raise ValueError if more steps are selected than sampled, or there are fewer points than steps."""
    steps, selected = config["steps"], config["selected_steps"]
    if selected > steps:
        raise ValueError(
            f"selected_steps: {selected} of {steps} steps cannot be selected;"
            f" set selected_steps to {steps} or less, or raise steps"
        )
    if config["capture_points"] < selected:
        few = describe_few_points("capture_points", config["capture_points"], selected, "selected steps")
        raise ValueError(f"{few}, or lower selected_steps")
    observed = len(select_timesteps(config["statistics_steps"], range(selected)))
    if 0 < config["statistics_points"] < observed:
        raise ValueError(
            f"statistics_points: {config['statistics_points']} is too few for the {observed} steps that"
            f" statistics_steps takes; set it to {observed} or more, or to 0 for all"
        )


def reject_folds(config: Config) -> None:
    """Raise ValueError for a fold that no layer input of the model can have."""
    sites = list_sites(*plan.MODEL_BLOCKS[config["model"]])
    for pattern in config["folds"]:
        if not select_sites(sites, pattern):
            raise ValueError(
                f"folds: {pattern['layers']} names no layer of {config['model']} whose input can have a"
                f" {pattern['kind']}; name layers of the kinds {', '.join(FOLDED_ROLES[pattern['kind']])}"
            )


def reject_few_points(config: Config) -> None:
    """Raise ValueError if there are fewer calibration points than a block needs, or than jobs to share them."""
    trajectories, selected = config["trajectories"], config["selected_steps"]
    if trajectories * selected < FEWEST_POINTS:
        raise ValueError(
            f"trajectories: {trajectories} of {selected} selected step gives {trajectories * selected} calibration"
            f" point, but a block needs {FEWEST_POINTS}, one of them held out; set trajectories to {FEWEST_POINTS} or"
            " more"
        )
    if config["capture_points"] < FEWEST_POINTS:
        raise ValueError(
            f"capture_points: {config['capture_points']} is too few for a block, which needs {FEWEST_POINTS}, one of"
            f" them held out; set it to {FEWEST_POINTS} or more"
        )
    points = min(config["capture_points"], trajectories * selected)
    if config["capture_shards"] > points:
        raise ValueError(describe_many_shards(config["capture_shards"], points))


def reject_many_groups(config: Config) -> None:
    """Raise ValueError if there are more groups of blocks than blocks."""
    blocks = len(plan.list_block_names(config["model"]))
    if config["capture_groups"] > blocks:
        raise ValueError(describe_many_groups(config["capture_groups"], blocks))


def list_migrating(config: Config) -> list[Rule]:
    """Input rules that ask for a migration."""
    return [rule for rule in config["activations"] if rule["bits"] != UNQUANTIZED and rule["migration"]]


def reject_migration(config: Config) -> None:
    """Raise ValueError for a migration that cannot be learned with the chosen engine or policy."""
    for rule in list_migrating(config):
        if config["engine"] != "adaround":
            raise ValueError(
                f"activations: the migration of {rule['layers']} is learned, which the engine {config['engine']} does"
                " not support; set migration to false, or engine to adaround"
            )
        if rule["policy"] in MEASURED_POLICIES:
            raise ValueError(
                f"activations: the migration of {rule['layers']} needs a step size, but the policy {rule['policy']}"
                " has none; set migration to false, or policy to static or lut"
            )


def reject_scale_dtypes(config: Config) -> None:
    """Raise ValueError if a weight rule names another stored type than the configuration."""
    for rule in config["weights"]:
        if rule["bits"] != UNQUANTIZED and read_scale_dtype(rule) != config["scale_dtype"]:
            raise ValueError(
                f"weights: {rule['layers']} has the scale_dtype {read_scale_dtype(rule)}, but all layers share one;"
                " remove it from the rules, and set the key scale_dtype"
            )


def reject_thresholds(config: Config) -> None:
    """Raise ValueError if the 4-bit threshold exceeds the 6-bit threshold."""
    for kind, (four, six) in config["multitier_thresholds"].items():
        if four > six:
            raise ValueError(
                f"multitier_thresholds.{kind}: {four:g} is above {six:g}; the first is the largest absmax for 4 bits,"
                " the second for 6 bits"
            )


def reject_guidance(config: Config) -> None:
    """Raise ValueError if guidance or a negative prompt is set for a model without classifier-free guidance."""
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


def reject_variants(config: Config) -> None:
    """Raise ValueError for an unknown variant name."""
    for name in config["evaluation_variants"]:
        if name not in VARIANTS:
            near = difflib.get_close_matches(name, VARIANTS, n=1, cutoff=0.0)[0]
            raise ValueError(f"evaluation_variants: {name} is unknown; did you mean {near}?")


def reject_seeds(config: Config) -> None:
    """Raise ValueError if evaluation seeds overlap the trajectories' seeds or exceed LARGEST_SEED."""
    first = config["evaluation_seed"]
    # The noise floor's other seeds follow those of the images.
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


def reject_layout(config: Config) -> None:
    """Raise ValueError for a layout that has no place for the configured model and stored type."""
    if config["layout"] != MFLUX:
        return
    for key, wanted in (("model", MFLUX_MODEL), ("scale_dtype", MFLUX_DTYPE)):
        if config[key] != wanted:
            raise ValueError(f"layout: mflux needs {key} {wanted}, and {config[key]} is set; set {key} to {wanted}")


def reject_mflux(config: Config) -> None:
    """Raise ValueError if the configured weights have no place in the layout of mflux."""
    if config["layout"] != MFLUX:
        raise ValueError(
            f"layout: {config['layout']} does not fit mflux; set layout to {MFLUX}, model to {MFLUX_MODEL} and"
            f" scale_dtype to {MFLUX_DTYPE}"
        )
    for rule in list_migrating(config):
        raise ValueError(
            f"activations: the migration of {rule['layers']} divides the layers' inputs, which mflux does not support;"
            " set migration to false"
        )
