"""What is to be made: the parameters of each stage, the shards, and the names of blocks.

Standard library only, so that planning a run loads neither MLX nor Zarr. A stage's parameters are the values it reads
and no others; they travel to its workers as `<results>/params/<stage>.json`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from taqmlx.planning.plain_files import read_plain_json

Parameters = dict[str, Any]
RECEIPT = "receipt.json"  # in a shard's folder, where the shard itself lies at a URL: its seal
SHARED = "shared"  # in the place of a block: the layers of none, which are the embedders and the final layer
WHOLE = "distilled"  # in the place of a block: all layers
EMBEDDED = "embedded"  # the only model whose captions and real pictures can be drawn, and judged by a classifier

# What each model is made of: its multimodal and unified blocks.
MODEL_BLOCKS = {"embedded": (5, 0), "sd3-medium": (24, 0), "sd3.5-large": (38, 0), "flux-schnell": (19, 38)}
# What the stages that load a model read of the configuration besides, by model.
MODEL_KEYS: dict[str, tuple[str, ...]] = {
    "embedded": (),
    "sd3-medium": ("weights_from", "use_t5", "height", "width"),
    "sd3.5-large": ("weights_from", "use_t5", "height", "width"),
    "flux-schnell": ("weights_from", "height", "width"),
}
# The models that draw without classifier-free guidance: each point has its prompt alone, with no negative one.
UNGUIDED = {"flux-schnell"}
NO_GUIDANCE = 1.0  # the weight at which the negative prompt has no part in the velocity
# What the rows that blocks are learned on have in common with the model that learns them.
ROW_KEYS = ("model", "height", "width")

# The keys that say where files of the user's are: a parameter is at most the file's name. `user_files.py` has the rest.
WEIGHTS_FROM = "weights_from"
PLACES = (WEIGHTS_FROM, "evaluation_prompts", "reference_pictures", "inception", "clip", "lpips")

_TRAJECTORIES = ("trajectories", "steps", "seed", "cfg_scale", "prompts_per_shard")

_DISTIL = tuple(
    f"distil_{key}"
    for key in ("iterations", "batch", "rate", "code_rate", "conditions", "sigma_power", "unroll", "checkpoint_every")
)

# stage: (version, configuration keys it reads). Raise the version when a change of code changes the stage's results.
STAGES: dict[str, tuple[int, tuple[str, ...]]] = {
    "fetch_weights": (2, ("model", "use_t5")),
    "encode_prompts": (1, ("model", "negative_prompt")),
    "collect_shard": (1, ("model", "negative_prompt", *_TRAJECTORIES, "batch_size", "checkpoint_every")),
    "gather_calibration": (1, ("model", *_TRAJECTORIES, "selected_steps")),
    "collect_activations": (2, ("model", "seed", "statistics_steps", "statistics_points", "statistics_shards")),
    "capture_blocks": (1, ("model", "seed", "capture_points", "capture_shards")),
    "measure_costs": (1, ("model", "seed", "weights", "search_points", "search_probes", "gptq_damping")),
    "search_bits": (2, ("model", "weights", "bits_per_weight")),
    "optimise_block": (
        2,
        ("model", "seed", "weights", "activations", "engine", "block_inputs", "held_out", "bits_per_weight"),
    ),
    "round_shared": (
        1,
        ("model", "seed", "weights", "activations", "engine", "held_out", "bits_per_weight", "search_points"),
    ),
    "distil": (1, ("model", "seed", "weights", "activations", "held_out", "distil", *_DISTIL)),
    "pack_weights": (2, ("model", "weights", "bits_per_weight")),
    "sample_rung": (
        1,
        ("model", "negative_prompt", "seed", "cfg_scale", "trajectories", "ladder_pictures", "ladder_steps"),
    ),
    "write_quant_config": (2, ("model", "activations")),
    "measure_sensitivity": (2, ("model", "seed", "weights", "activations", "evaluation_cfg")),
    "write_multitier": (1, ("model", "multitier_rule", "multitier_budget", "multitier_thresholds", "weight_budget")),
    "plot_activations": (1, ("model", "snapshot_steps")),
    "write_evaluation_prompts": (1, ("model", "seed", "evaluation_prompts", "evaluation_pictures", "evaluation_seed")),
    "draw_reference": (1, ("model", "evaluation_pictures", "evaluation_seed")),
    "generate_images": (
        1,
        ("model", "negative_prompt", "evaluation_steps", "evaluation_cfg", "evaluation_shards"),
    ),
    "extract_features": (2, ("model", "inception", "clip", "evaluation_shards")),
    "measure_growth": (1, ("model", "negative_prompt", "evaluation_steps", "evaluation_cfg")),
    "compare_variant": (2, ("model", "evaluation_seed", "evaluation_shards", "lpips")),
    "measure_size": (2, ("model",)),
    "measure_frontier": (1, ("model", "negative_prompt", "evaluation_steps", "evaluation_cfg", "frontier_pictures")),
    "score": (
        2,
        (
            "model",
            "bits_per_weight",
            "evaluation_variants",
            "evaluation_steps",
            "evaluation_cfg",
            "evaluation_seed",
            "evaluation_shards",
            "reference_pictures",
            "lpips",
        ),
    ),
}

_ADAROUND = (
    "start",
    "iterations",
    "batch",
    "rate",
    "step_rate",
    "weight",
    "warm_up",
    "beta",
    "drop",
    "checkpoint_every",
)

# What `optimise_block` reads besides, by engine.
ENGINES: dict[str, tuple[str, ...]] = {
    "rtn": (),
    "gptq": ("gptq_damping",),
    "adaround": ("gptq_damping", "reconstruction", *(f"adaround_{key}" for key in _ADAROUND)),
}

# The stages whose workers load a model.
LOADS_MODEL = {
    "encode_prompts",
    "collect_shard",
    "collect_activations",
    "capture_blocks",
    "optimise_block",
    "round_shared",
    "distil",
    "pack_weights",
    "sample_rung",
    "measure_sensitivity",
    "measure_costs",
    "generate_images",
    "measure_growth",
    "measure_size",
    "measure_frontier",
}

# The stages whose work belongs to the prompts.
READS_PROMPTS = {
    "encode_prompts",
    "collect_shard",
    "gather_calibration",
    "sample_rung",
    "write_evaluation_prompts",
}


def select_parameters(stage: str, config: Parameters, prompts: Sequence[str]) -> Parameters:
    """The parameters of a stage: its name and version, and the values it reads."""
    values = {key: hide_folder(config[key]) if key in PLACES else config[key] for key in list_keys(stage, config)}
    parameters = {"stage": stage, "version": STAGES[stage][0]} | values
    if stage in READS_PROMPTS:
        # A prompt without a trajectory of its own takes no part.
        parameters["prompts"] = list(prompts[: config["trajectories"]])
    return parameters


def list_keys(stage: str, config: Parameters) -> tuple[str, ...]:
    """The configuration keys a stage reads."""
    by_engine = ENGINES[config["engine"]] if stage == "optimise_block" else ()
    by_model = MODEL_KEYS[config["model"]] if stage in LOADS_MODEL else ()
    # Of the weights their digests count, which are in the seals.
    return STAGES[stage][1] + by_engine + tuple(key for key in by_model if key != WEIGHTS_FROM)


def encode_values(stage: str, config: Parameters) -> str:
    """The configuration values that `select_parameters` needs for a stage, as JSON for a command line."""
    keys = {*list_keys(stage, config), *(["trajectories"] if stage in READS_PROMPTS else [])}
    values = {key: hide_folder(config[key]) if key in PLACES else config[key] for key in keys}
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def hide_folder(place: Any) -> Any:
    """The last part of a path, or of the `path` in a dictionary; None stays None."""
    if isinstance(place, dict):
        return place | {"path": hide_folder(place["path"])}
    return Path(place).name if place else None


def fingerprint(value: Any) -> str:
    """sha256 (hex) of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def list_shards(parameters: Parameters) -> list[str]:
    """The shard names `000`, `001`, ... of the trajectories' parameters: one per run of `prompts_per_shard` prompts."""
    per_shard = parameters["prompts_per_shard"]
    count = -(-len(parameters["prompts"]) // per_shard)
    return [f"{index:03d}" for index in range(count)]


def select_shard(parameters: Parameters, shard: str) -> Parameters:
    """The parameters of one shard: those of its stage, with its own prompts and trajectories only.

    Trajectory j uses prompt j mod P; `rows` lists [trajectory, prompt index] pairs, prompt by prompt.
    """
    prompts, per_shard = parameters["prompts"], parameters["prompts_per_shard"]
    first = int(shard) * per_shard
    indices = range(first, min(first + per_shard, len(prompts)))
    rows = [[j, p] for p in indices for j in range(p, parameters["trajectories"], len(prompts))]
    shared = {key: parameters[key] for key in parameters if key not in ("prompts", "prompts_per_shard", "trajectories")}
    return shared | {"shard": shard, "prompts": [prompts[p] for p in indices], "rows": rows}


def place_store(config: Parameters) -> str:
    """The folder or URL that the trajectories' shards lie in."""
    return (config["trajectories_url"] or f"{config['results_dir']}/trajectories.zarr").rstrip("/")


def list_blocks(model: str) -> list[str]:
    """The block names of a model: `mm_00`, `mm_01`, ..., then `uni_00`, ..."""
    multimodal, unified = MODEL_BLOCKS[model]
    return [f"mm_{i:02d}" for i in range(multimodal)] + [f"uni_{i:02d}" for i in range(unified)]


def list_units(model: str) -> list[str]:
    """What is quantized by a job of its own: the blocks of a model, and the layers of none."""
    return [*list_blocks(model), SHARED]


def name_stage(unit: str) -> str:
    """The stage that quantizes a block, the layers of none, or the whole model."""
    return {SHARED: "round_shared", WHOLE: "distil"}.get(unit, "optimise_block")


def select_row_keys(parameters: Parameters) -> Parameters:
    """What of a stage's parameters the rows it reads must have been captured with."""
    return {key: parameters[key] for key in ROW_KEYS if key in parameters}


def count_conditions(model: str) -> int:
    """How many conditions a point has: its prompt and the negative prompt, or its prompt alone."""
    return 1 if model in UNGUIDED else 2


def list_parts(count: int) -> list[str]:
    """The names `00`, `01`, ... of the `count` parts of a stage's points."""
    return [f"{index:02d}" for index in range(count)]


def find_conflicts(results: Path, parameters: Parameters) -> Iterator[str]:
    """Finished trajectory shards in `results` that other parameters made: one line each, naming a difference.

    `parameters` are those of `collect_shard`. Unreadable seals are reported too. Of a shard at a URL its receipt
    is read.
    """
    planned = set(list_shards(parameters))
    for path in sorted((results / "trajectories.zarr").glob("[0-9]*/*.json")):
        folder = path.parent
        try:
            content = read_plain_json(path)
            sealed = take_sealed(content if path.name == RECEIPT else content["attributes"]["seal"])
        except (OSError, ValueError, KeyError, TypeError):
            yield f"{folder} has a damaged seal; delete that folder and run again"
            continue
        wanted = select_shard(parameters, folder.name) if folder.name in planned else None
        if isinstance(sealed, dict) and sealed.get("shard", folder.name) != folder.name:
            yield f"{folder} is the shard {sealed['shard']}; delete it and run again"
        elif difference := describe_difference(sealed, wanted):
            yield f"{folder} was made with other parameters ({difference})"


def take_sealed(seal: Any) -> Parameters:
    """The parameters in a seal. Raises ValueError, KeyError or TypeError if it is damaged."""
    if fingerprint({key: seal[key] for key in seal if key != "checksum"}) != seal["checksum"]:
        raise ValueError("its checksum does not hold")
    parameters: Parameters = seal["parameters"]
    return parameters


def describe_difference(found: Any, wanted: Parameters | None) -> str:
    """The first difference between two sets of parameters in words, or an empty string."""
    if wanted is None:
        return "this configuration has no such shard"
    if not isinstance(found, dict):
        return "its parameters are not readable"
    for key in sorted(wanted.keys() | found.keys()):
        there, here = found.get(key), wanted.get(key)
        if isinstance(there, dict) and isinstance(here, dict) and there != here:
            return f"{key}.{describe_difference(there, here)}"
        if there != here:
            return f"{key}: {shorten(there)} there, {shorten(here)} in the configuration"
    return ""


def shorten(value: Any, limit: int = 40) -> str:
    """A value in at most `limit` characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 3] + "..."
