"""The configuration: one schema fills every default and refuses what cannot be meant, in one line."""

import difflib
import math
import re
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from jsonschema import Draft202012Validator

from workflow_scripts.config_limits import refuse_long, refuse_paths, refuse_unwieldy
from workflow_scripts.numerics.layer_rules import UNQUANTIZED
from workflow_scripts.numerics.step_choice import choose_steps
from workflow_scripts.plan import MODEL_KEYS, NO_GUIDANCE, UNGUIDED
from workflow_scripts.prompts import read_prompts
from workflow_scripts.variants import VARIANTS

# Snakemake hands these words of a command line over as text, and YAML takes 1e-3 for text.
_WORDS = {"boolean": lambda word: {"true": True, "false": False}[word], "number": float}
# Neither not-a-number nor infinity is a number here.
_Validator = jsonschema.validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "number",
        lambda _, value: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value),
    ),
)
LONGEST_MESSAGE = 200  # characters
LARGEST_SEED = 2**31 - 1
SCHEMA = Path(__file__).parent.parent / "config" / "config.schema.yaml"


def load_schema(path: Path = SCHEMA) -> dict[str, Any]:
    """The schema as a dictionary (JSON Schema, draft 2020-12)."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def complete(config: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """`config` with every default filled in.

    Raises ValueError with one line that names the key, the value and what to change.
    """
    refuse_unwieldy(config)
    refuse_unknown(config, schema["properties"])
    full = {key: described["default"] for key, described in schema["properties"].items()} | config
    full = {key: read_word(value, schema["properties"][key]) for key, value in full.items()}
    for error in sorted(_Validator(schema).iter_errors(full), key=lambda error: list(error.path)):
        place = ".".join(str(part) for part in error.absolute_path)
        name = place.split(".")[0]
        raise ValueError(f"{place}: {error.message[:LONGEST_MESSAGE]}; {schema['properties'][name]['description']}")
    full = {key: spell(value, schema["properties"][key]) for key, value in full.items()}
    refuse_paths(full)
    full |= {"results_dir": Path(full["results_dir"]).as_posix()} | complete_rules(full, schema)
    refuse_long(full)
    refuse_url(full)
    refuse_too_few(full)
    refuse_migration(full)
    refuse_thresholds(full)
    refuse_guidance(full)
    refuse_evaluation(full)
    return full


def read_word(value: Any, described: dict[str, Any]) -> Any:
    """What a word stands for in the place of the type `described`; anything else as it is."""
    try:
        return _WORDS[described["type"]](value) if isinstance(value, str) else value
    except (KeyError, ValueError):
        return value


def spell(value: Any, described: dict[str, Any]) -> Any:
    """A valid value in its one spelling, so that 3 and 3.0 are not two configurations."""
    if described.get("type") == "number":
        return float(value)
    if isinstance(value, list):
        return [spell(item, {}) for item in value]
    if isinstance(value, dict):
        return {key: spell(item, {}) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def refuse_url(config: dict[str, Any]) -> None:
    """Raise ValueError, which does not repeat it, for a URL that is none or that holds credentials."""
    url = config["trajectories_url"]
    if url is not None and not re.fullmatch(r"[a-z0-9+]+://[^/@\s][^@\s]*", url):
        raise ValueError(
            "trajectories_url: what is given is no URL such as s3://bucket/run/trajectories.zarr, or holds credentials,"
            " which belong in the environment; change it, or leave it out to keep trajectories in results_dir"
        )


def refuse_too_few(config: dict[str, Any]) -> None:
    """Raise ValueError for more steps than there are, or fewer points than steps that need one each."""
    steps, selected = config["steps"], config["selected_steps"]
    observed = len(choose_steps(config["statistics_steps"], range(selected)))
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
    if 0 < config["statistics_points"] < observed:
        raise ValueError(
            f"statistics_points: {config['statistics_points']} is too few for the {observed} steps that"
            f" statistics_steps takes; set it to {observed} or more, or to 0 for all"
        )


def refuse_migration(config: dict[str, Any]) -> None:
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


def refuse_thresholds(config: dict[str, Any]) -> None:
    """Raise ValueError for thresholds of which the one for 4 bits is the higher."""
    for kind, (four, six) in config["multitier_thresholds"].items():
        if four > six:
            raise ValueError(
                f"multitier_thresholds.{kind}: {four:g} is above {six:g}; the first is where 4 bits end, the second"
                " where 6 end"
            )


def refuse_guidance(config: dict[str, Any]) -> None:
    """Raise ValueError for guidance, or a negative prompt, asked of a model that knows none."""
    if config["model"] not in UNGUIDED:
        return
    for key in ("cfg_scale", "evaluation_cfg"):
        if config[key] != NO_GUIDANCE:
            raise ValueError(
                f"{key}: {config['model']} draws without guidance, so {config[key]:g} has no meaning; set it to"
                f" {NO_GUIDANCE:g}"
            )
    if config["negative_prompt"]:
        raise ValueError(
            f"negative_prompt: {config['model']} draws without guidance and reads no negative prompt; leave it empty"
        )


def refuse_evaluation(config: dict[str, Any]) -> None:
    """Raise ValueError for an unknown variant, or for pictures whose noise a trajectory starts from."""
    for name in config["evaluation_variants"]:
        if name not in VARIANTS:
            near = difflib.get_close_matches(name, VARIANTS, n=1, cutoff=0.0)[0]
            raise ValueError(f"evaluation_variants: {name} is unknown; did you mean {near}?")
    first = config["evaluation_seed"]
    # Other seeds for the noise floor follow those of the pictures.
    used = 2 * max(config["evaluation_pictures"], config["ablation_pictures"])
    start, end = config["seed"], config["seed"] + config["trajectories"]
    if first < end and start < first + used:
        raise ValueError(
            f"evaluation_seed: the pictures use the seeds {first} to {first + used - 1}, some of which trajectories"
            f" start from ({start} to {end - 1}); set evaluation_seed to {end} or more"
        )
    if first + used > LARGEST_SEED + 1:
        raise ValueError(f"evaluation_seed: {first} leaves too few seeds; set it to {LARGEST_SEED + 1 - used} or less")


def refuse_shared_prompts(prompts: list[str], calibration: list[str]) -> None:
    """Raise ValueError if one of the evaluation's prompts is a calibration prompt."""
    if shared := sorted(set(prompts) & set(calibration)):
        raise ValueError(
            f"evaluation_prompts: {shared[0]!r} is a calibration prompt too ({len(shared)} are); evaluate on others"
        )


def complete_rules(config: dict[str, Any], schema: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The lists of rules in `config`, each in full."""
    completed = {}
    for key, described in schema["properties"].items():
        fields = described.get("items", {}).get("properties")
        if fields:
            defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
            completed[key] = [complete_rule(rule, defaults) for rule in config[key]]
    return completed


def complete_rule(rule: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A rule with every default; of one with 16 bits, what counts."""
    if rule["bits"] == UNQUANTIZED:
        return {key: rule[key] for key in ("layers", "bits")}
    return defaults | rule


def refuse_unknown(config: dict[str, Any], known: dict[str, Any]) -> None:
    """Raise ValueError for a key the schema does not describe, with the nearest one it does."""
    for key in config:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{key}: unknown key; did you mean {near}?")


def refuse_unread(config: dict[str, Any], model: str) -> None:
    """Raise ValueError for a key that only another model reads."""
    for other, keys in MODEL_KEYS.items():
        for key in sorted(set(keys) & set(config) - set(MODEL_KEYS[model])):
            raise ValueError(f"{key}: the model {model} does not read it; leave it out, or set model to {other}")


def load(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The completed configuration and its prompts. Raises ValueError with one line."""
    full = complete(config, load_schema())
    refuse_unread(config, full["model"])
    prompts = read_prompts(Path(full["prompts"]))
    if full["evaluation_prompts"] is not None:
        try:
            refuse_shared_prompts(read_prompts(Path(full["evaluation_prompts"])), prompts)
        except ValueError as error:
            raise ValueError(f"evaluation_{error}" if str(error).startswith("prompts:") else str(error)) from None
    return full, prompts
