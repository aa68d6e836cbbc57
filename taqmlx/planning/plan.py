"""Run plan: the parameters of each stage, the shards, and the block names.

Standard library only, so that planning a run loads neither MLX nor Zarr. The parameters of a stage are exactly the
values it reads; its workers get them as `<results>/params/<stage>.json`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from taqmlx.planning.layers import Layer, list_linears, list_streams
from taqmlx.planning.plain_files import read_plain_json

Parameters = dict[str, Any]
RECEIPT = "receipt.json"  # copy of a shard's seal, in its local folder, if the shard itself is stored at a URL
SHARED = "shared"  # pseudo-block of the layers outside the blocks: the embedders and the final layer
WHOLE = "distilled"  # pseudo-block of all layers
# Models with generated captions, generated real images and a classifier.
EMBEDDED = ("embedded", "embedded-hard")

# Number of multimodal and unified blocks by model.
MODEL_BLOCKS = {
    "embedded": (5, 0),
    "embedded-hard": (5, 0),
    "sd3-medium": (24, 0),
    "sd3.5-large": (38, 0),
    "flux-schnell": (19, 38),
}
# Additional configuration keys of the stages that load a model, by model.
MODEL_KEYS: dict[str, tuple[str, ...]] = {
    "embedded": (),
    "embedded-hard": ("hardness",),
    "sd3-medium": ("weights_from", "use_t5", "height", "width"),
    "sd3.5-large": ("weights_from", "use_t5", "height", "width"),
    "flux-schnell": ("weights_from", "height", "width"),
}
# Models without classifier-free guidance: each point has its prompt alone, no negative prompt.
UNGUIDED = {"flux-schnell"}
NO_GUIDANCE = 1.0  # guidance weight at which the negative prompt has no effect on the velocity
# Keys that must agree between the captured block inputs and the stage that reads them.
ROW_KEYS = ("model", "height", "width")

# Configuration keys holding local paths. Parameters contain at most the file name; see `local_paths.py`.
WEIGHTS_FROM = "weights_from"
PLACES = (WEIGHTS_FROM, "evaluation_prompts", "reference_pictures", "inception", "clip", "lpips")

_TRAJECTORIES = ("trajectories", "steps", "seed", "cfg_scale", "prompts_per_shard")

_DISTIL = tuple(
    f"distil_{key}"
    for key in ("iterations", "batch", "rate", "code_rate", "conditions", "sigma_power", "unroll", "checkpoint_every")
)

# stage: (version, configuration keys). Raise the version when a code change alters the results of the stage.
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

# Additional keys of `optimise_block`, by engine.
ENGINES: dict[str, tuple[str, ...]] = {
    "rtn": (),
    "gptq": ("gptq_damping",),
    "adaround": ("gptq_damping", "reconstruction", *(f"adaround_{key}" for key in _ADAROUND)),
}

# Keys that a stage reads only if they are not at this default: results without them have no such parameter.
OPTIONAL: dict[str, tuple[Any, tuple[str, ...]]] = {
    "bias_correction": (False, ("optimise_block",)),
    "layout": ("diffusionkit", ("search_bits",)),
}

# Stages whose workers load a model.
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

# Stages whose parameters include the prompts.
READS_PROMPTS = {
    "encode_prompts",
    "collect_shard",
    "gather_calibration",
    "sample_rung",
    "write_evaluation_prompts",
}


def select_parameters(stage: str, config: Parameters, prompts: Sequence[str]) -> Parameters:
    """The parameters of a stage: its name, its version, and the values it reads."""
    values = {key: hide_folder(config[key]) if key in PLACES else config[key] for key in list_keys(stage, config)}
    parameters = {"stage": stage, "version": STAGES[stage][0]} | values
    if stage in READS_PROMPTS:
        # Prompts without a trajectory are unused.
        parameters["prompts"] = list(prompts[: config["trajectories"]])
    return parameters


def list_keys(stage: str, config: Parameters) -> tuple[str, ...]:
    """The configuration keys a stage reads."""
    by_engine = ENGINES[config["engine"]] if stage == "optimise_block" else ()
    by_model = MODEL_KEYS[config["model"]] if stage in LOADS_MODEL else ()
    optional = tuple(
        key for key, (default, stages) in OPTIONAL.items() if stage in stages and config.get(key, default) != default
    )
    # Weights are identified by their digests in the seals, not by their path.
    return STAGES[stage][1] + by_engine + optional + tuple(key for key in by_model if key != WEIGHTS_FROM)


def encode_values(stage: str, config: Parameters) -> str:
    """Configuration values that `select_parameters` needs for a stage, as JSON for a command line."""
    keys = {*list_keys(stage, config), *(["trajectories"] if stage in READS_PROMPTS else [])}
    values = {key: hide_folder(config[key]) if key in PLACES else config[key] for key in keys}
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def hide_folder(place: Any) -> Any:
    """The file name of a path, or of the `path` entry of a dictionary; None for None."""
    if isinstance(place, dict):
        return place | {"path": hide_folder(place["path"])}
    return Path(place).name if place else None


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def list_shards(parameters: Parameters) -> list[str]:
    """Shard names `000`, `001`, ... for trajectory parameters: one per `prompts_per_shard` prompts."""
    per_shard = parameters["prompts_per_shard"]
    count = -(-len(parameters["prompts"]) // per_shard)
    return [f"{index:03d}" for index in range(count)]


def select_shard(parameters: Parameters, shard: str) -> Parameters:
    """The parameters of one shard: those of its stage, restricted to its prompts and trajectories.

    Trajectory j uses prompt j mod P; `rows` lists [trajectory, prompt index] pairs, prompt by prompt.
    """
    prompts, per_shard = parameters["prompts"], parameters["prompts_per_shard"]
    first = int(shard) * per_shard
    indices = range(first, min(first + per_shard, len(prompts)))
    rows = [[j, p] for p in indices for j in range(p, parameters["trajectories"], len(prompts))]
    shared = {key: parameters[key] for key in parameters if key not in ("prompts", "prompts_per_shard", "trajectories")}
    return shared | {"shard": shard, "prompts": [prompts[p] for p in indices], "rows": rows}


def place_store(config: Parameters) -> str:
    """Folder or URL of the trajectory store."""
    return (config["trajectories_url"] or f"{config['results_dir']}/trajectories.zarr").rstrip("/")


def list_blocks(model: str) -> list[str]:
    """The block names of a model: `mm_00`, `mm_01`, ..., then `uni_00`, ..."""
    return list(dict.fromkeys(stream.block for stream in list_streams(*MODEL_BLOCKS[model])))


def list_layers(model: str) -> list[Layer]:
    """All linear layers of a model, as in `list_linears`."""
    return list_linears(*MODEL_BLOCKS[model])


def list_units(model: str) -> list[str]:
    """Units quantized by one job each: the blocks of a model, and the layers outside the blocks."""
    return [*list_blocks(model), SHARED]


def name_stage(unit: str) -> str:
    """The stage that quantizes `unit`: a block, the layers outside the blocks, or the whole model."""
    return {SHARED: "round_shared", WHOLE: "distil"}.get(unit, "optimise_block")


def select_row_keys(parameters: Parameters) -> Parameters:
    """Parameters that must agree between a stage and the captured rows it reads."""
    return {key: parameters[key] for key in ROW_KEYS if key in parameters}


def count_conditions(model: str) -> int:
    """Number of conditions per point: 2 (prompt and negative prompt), or 1 for a model without guidance."""
    return 1 if model in UNGUIDED else 2


def list_parts(count: int) -> list[str]:
    """Names `00`, `01`, ... of the `count` shards of a stage's points."""
    return [f"{index:02d}" for index in range(count)]


def find_conflicts(results: Path, parameters: Parameters) -> Iterator[str]:
    """Yield one line per finished trajectory shard in `results` made with other parameters, naming a difference.

    `parameters` are those of `collect_shard`. Unreadable seals are reported too. For a shard at a URL, its receipt is
    read.
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
    """The parameters in a seal. Raises ValueError, KeyError or TypeError if the seal is damaged."""
    if fingerprint({key: seal[key] for key in seal if key != "checksum"}) != seal["checksum"]:
        raise ValueError("its checksum does not hold")
    parameters: Parameters = seal["parameters"]
    return parameters


def describe_difference(found: Any, wanted: Parameters | None) -> str:
    """The first difference between two sets of parameters, in words; empty if they are equal."""
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
    """JSON text of a value, cut to at most `limit` characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 3] + "..."
