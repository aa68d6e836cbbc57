"""The configuration: one schema fills every default and refuses what cannot be meant, in one line."""

import difflib
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from workflow_scripts.numerics.layer_rules import UNQUANTIZED
from workflow_scripts.plan import read_prompts

# One spelling per value, so that 3 and 3.0, or results and results/, are not two configurations.
_SPELLINGS = {"integer": int, "number": float}
# Snakemake hands these words of a command line over as text.
_WORDS = {"true": True, "false": False}
SCHEMA = Path(__file__).parent.parent / "config" / "config.schema.yaml"


def load_schema(path: Path = SCHEMA) -> dict[str, Any]:
    """The schema as a dictionary (JSON Schema, draft 2020-12)."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def complete(config: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """`config` with every default filled in.

    Raises ValueError with one line that names the key, the value and what to change.
    """
    refuse_unknown(config, schema["properties"])
    full = {key: described["default"] for key, described in schema["properties"].items()} | config
    for key, value in full.items():
        if schema["properties"][key].get("type") == "boolean":
            full[key] = _WORDS.get(value, value) if isinstance(value, str) else value
    for error in sorted(Draft202012Validator(schema).iter_errors(full), key=lambda error: list(error.path)):
        place = ".".join(str(part) for part in error.absolute_path)
        name = place.split(".")[0]
        raise ValueError(f"{place}: {error.message}; {schema['properties'][name]['description']}")
    if full["selected_steps"] > full["steps"]:
        raise ValueError(
            f"selected_steps: {full['selected_steps']} of {full['steps']} steps cannot be selected;"
            f" set selected_steps to {full['steps']} or less, or raise steps"
        )
    for key, described in schema["properties"].items():
        full[key] = _SPELLINGS.get(described.get("type"), lambda value: value)(full[key])
    return full | {"results_dir": Path(full["results_dir"]).as_posix()} | complete_rules(full, schema)


def complete_rules(config: dict[str, Any], schema: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The lists of rules in `config`, each rule with every default; 16 bits need nothing else."""
    completed = {}
    for key, described in schema["properties"].items():
        fields = described.get("items", {}).get("properties")
        if fields:
            defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
            completed[key] = [rule if rule["bits"] == UNQUANTIZED else defaults | rule for rule in config[key]]
    return completed


def refuse_unknown(config: dict[str, Any], known: dict[str, Any]) -> None:
    """Raise ValueError for a key the schema does not describe, with the nearest one it does."""
    for key in config:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{key}: unknown key; did you mean {near}?")


def load(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The completed configuration and its prompts. Raises ValueError with one line."""
    full = complete(config, load_schema())
    return full, read_prompts(Path(full["prompts"]))
