"""Configuration loading: one schema fills every default; invalid values are rejected with a one-line error."""

import difflib
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from jsonschema import Draft202012Validator

from taqmlx.planning.config_limits import reject_long, reject_paths, reject_unwieldy
from taqmlx.planning.config_relations import reject_contradictions
from taqmlx.planning.documents import Config, Rule, Schema
from taqmlx.planning.layer_rules import FLOAT16, UNQUANTIZED
from taqmlx.planning.path_checks import reject_unusable_paths
from taqmlx.planning.plan import MODEL_KEYS
from taqmlx.planning.prompts import read_prompts
from taqmlx.planning.workflow_files import FOLDER

# Snakemake passes these command-line words as strings, and YAML parses 1e-3 as a string.
_WORDS: dict[str, Callable[[str], bool | float]] = {
    "boolean": lambda word: {"true": True, "false": False}[word],
    "number": float,
}
# Reject NaN and infinity.
_Validator = jsonschema.validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "number",
        lambda _, value: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value),
    ),
)
LONGEST_MESSAGE = 200  # characters
SCHEMA = FOLDER / "config" / "config.schema.yaml"


def load_schema(path: Path = SCHEMA) -> Config:
    """The configuration schema as a dictionary (JSON Schema, draft 2020-12)."""
    read = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # with libyaml, in a seventh of the time
    schema: Schema = read(path.read_text(encoding="utf-8")).get_single_data()
    return schema


def complete(config: Config, schema: Schema) -> Config:
    """`config` with every default filled in.

    Raises ValueError, in one line, naming the key, the value and the change to make.
    """
    reject_unwieldy(config)
    reject_unknown(config, schema["properties"])
    full = {key: described["default"] for key, described in schema["properties"].items()} | config
    full = {key: read_word(value, schema["properties"][key]) for key, value in full.items()}
    for error in sorted(_Validator(schema).iter_errors(full), key=lambda error: list(error.path)):
        place = ".".join(str(part) for part in error.absolute_path)
        name = place.split(".")[0]
        raise ValueError(f"{place}: {error.message[:LONGEST_MESSAGE]}; {schema['properties'][name]['description']}")
    full = {key: spell(value, schema["properties"][key]) for key, value in full.items()}
    reject_paths(full)
    full |= {"results_dir": Path(full["results_dir"]).as_posix()} | complete_rules(full, schema)
    reject_long(full)
    reject_url(full)
    reject_contradictions(full)
    return full


def read_word(value: Any, described: Schema) -> Any:
    """The boolean or number spelled by the string `value`, if the schema `described` asks for one; else `value`."""
    try:
        return _WORDS[described["type"]](value) if isinstance(value, str) else value
    except (KeyError, ValueError):
        return value


def spell(value: Any, described: Schema) -> Any:
    """A valid value in canonical form, so that 3 and 3.0 give the same configuration."""
    if described.get("type") == "number":
        return float(value)
    if isinstance(value, list):
        return [spell(item, {}) for item in value]
    if isinstance(value, dict):
        return {key: spell(item, {}) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def reject_url(config: Config) -> None:
    """Raise ValueError for an invalid trajectories_url or one with credentials; the message omits the URL."""
    url = config["trajectories_url"]
    if url is not None and not re.fullmatch(r"[a-z0-9+]+://[^/@\s][^@\s]*", url):
        raise ValueError(
            "trajectories_url: it is not a URL such as s3://bucket/run/trajectories.zarr, or holds credentials, which"
            " belong in the environment; change it, or leave it out to keep trajectories in results_dir"
        )


def reject_shared_prompts(prompts: Sequence[str], calibration: Sequence[str]) -> None:
    """Raise ValueError if an evaluation prompt is also a calibration prompt."""
    if shared := sorted(set(prompts) & set(calibration)):
        raise ValueError(
            f"evaluation_prompts: {shared[0]!r} is a calibration prompt too ({len(shared)} are); use other prompts"
        )


def complete_rules(config: Config, schema: Schema) -> dict[str, list[Rule]]:
    """The rule lists of `config`, with the defaults of each rule filled in."""
    completed = {}
    for key, described in schema["properties"].items():
        fields = described.get("items", {}).get("properties")
        if fields:
            defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
            completed[key] = [complete_rule(rule, defaults) for rule in config[key]]
    if config["scale_dtype"] != FLOAT16:
        completed["weights"] = [name_scale_dtype(rule, config["scale_dtype"]) for rule in completed["weights"]]
    return completed


def name_scale_dtype(rule: Rule, scale_dtype: str) -> Rule:
    """A weight rule that names its stored type; rules of fp16 do not, as their results have no such parameter."""
    return rule if rule["bits"] == UNQUANTIZED else {"scale_dtype": scale_dtype} | rule


def complete_rule(rule: Rule, defaults: Rule) -> Rule:
    """A rule with defaults filled in; a 16-bit rule keeps only `layers` and `bits`."""
    if rule.get("bits") == UNQUANTIZED:
        return {key: rule[key] for key in ("layers", "bits")}
    return defaults | rule


def reject_unknown(config: Config, known: Config) -> None:
    """Raise ValueError for a key missing from the schema, suggesting the nearest known key."""
    for key in config:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{key}: unknown key; did you mean {near}?")


def reject_unread(config: Config, model: str) -> None:
    """Raise ValueError for a key that only other models read."""
    for other, keys in MODEL_KEYS.items():
        for key in sorted(set(keys) & set(config) - set(MODEL_KEYS[model])):
            raise ValueError(f"{key}: the model {model} does not read it; leave it out, or set model to {other}")


def load(config: Config) -> tuple[Config, list[str]]:
    """The completed configuration and its prompts. Raises ValueError with a one-line message."""
    full = complete(config, load_schema())
    reject_unread(config, full["model"])
    reject_unusable_paths(full)
    prompts = read_prompts(Path(full["prompts"]))
    if full["evaluation_prompts"] is not None:
        try:
            reject_shared_prompts(read_prompts(Path(full["evaluation_prompts"])), prompts)
        except ValueError as error:
            raise ValueError(f"evaluation_{error}" if str(error).startswith("prompts:") else str(error)) from None
    return full, prompts
