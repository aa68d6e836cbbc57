"""Run plan: the parameters of each stage, the shards, and the block names.

Standard library only, so that planning a run loads neither MLX nor Zarr. The parameters of a stage are exactly the
values it reads; its workers get them as `<results>/params/<stage>.json` and read them as a dataclass of its stage.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from taqmlx.planning.documents import Config
from taqmlx.planning.layers import Layer, list_linears, list_streams
from taqmlx.planning.plain_files import read_plain_json
from taqmlx.planning.stage_groups import ModelStage, PromptReader, Stage, Trajectories, list_fields
from taqmlx.planning.stages import (
    BLOCK_PARAMETERS,
    PARAMETERS,
    BlockParameters,
    CollectShard,
    ShardKeys,
    ShardParameters,
)

# A configuration, or the content of a parameter file as seals record it (`Stage.encode`).
Parameters = Config
S = TypeVar("S", bound=Stage)
PROMPTS = "prompts"  # names a file in the configuration; in parameters, the prompts themselves
RECEIPT = "receipt.json"  # copy of a shard's seal, in its local folder, if the shard itself is stored at a URL
SHARED = "shared"  # pseudo-block of the layers outside the blocks: the embedders and the final layer
WHOLE = "distilled"  # pseudo-block of all layers
EMBEDDED = ("embedded", "embedded-hard")  # models with generated captions, generated real images and a classifier

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
LOCAL_PATHS = (WEIGHTS_FROM, "evaluation_prompts", "reference_pictures", "inception", "clip", "lpips")

# stage: (version, configuration keys), from the dataclasses of the stages.
STAGES: dict[str, tuple[int, tuple[str, ...]]] = {
    stage: (kind.version, tuple(key for key in list_fields(kind) if key != PROMPTS))
    for stage, kind in PARAMETERS.items()
}
# Additional keys of `optimise_block`, by engine.
ENGINES: dict[str, tuple[str, ...]] = {
    engine: tuple(key for key in list_fields(kind) if key not in list_fields(BlockParameters))
    for engine, kind in BLOCK_PARAMETERS.items()
}

# Keys that a stage reads only if they are not at this default: results without them have no such parameter.
OPTIONAL: dict[str, tuple[Any, tuple[str, ...]]] = {
    "bias_correction": (False, ("optimise_block",)),
    "adaround_patience": (0, ("optimise_block",)),
    "learning_dtype": ("float32", ("optimise_block", "distil")),
    "layout": ("diffusionkit", ("search_bits",)),
}

# Stages whose workers load a model.
LOADS_MODEL = {stage for stage, kind in PARAMETERS.items() if issubclass(kind, ModelStage)}
# Stages whose parameters include the prompts.
READS_PROMPTS = {stage for stage, kind in PARAMETERS.items() if issubclass(kind, PromptReader)}


def select_parameters(stage: str, config: Parameters, prompts: Sequence[str]) -> Parameters:
    """The parameters of a stage: its name, its version, and the values it reads."""
    values = {key: hide_folder(config[key]) if key in LOCAL_PATHS else config[key] for key in list_keys(stage, config)}
    parameters = {"stage": stage, "version": STAGES[stage][0]} | values
    if stage in READS_PROMPTS:
        # Prompts without a trajectory are unused.
        parameters[PROMPTS] = list(prompts[: config["trajectories"]])
    return parameters


def select_stage(kind: type[S], config: Parameters, prompts: Sequence[str]) -> S:
    """The parameters of a stage, typed. Raises ValueError as `Stage.decode`."""
    return kind.decode(select_parameters(kind.stage, config, prompts))


def list_keys(stage: str, config: Parameters) -> tuple[str, ...]:
    """The configuration keys a stage reads."""
    by_engine = ENGINES[config["engine"]] if stage == "optimise_block" else ()
    by_model = MODEL_KEYS[config["model"]] if stage in LOADS_MODEL else ()
    known = {field.name for field in fields(BLOCK_PARAMETERS[config["engine"]])} if stage == "optimise_block" else None
    optional = tuple(
        key
        for key, (default, stages) in OPTIONAL.items()
        if stage in stages and config.get(key, default) != default and (known is None or key in known)
    )
    # Weights are identified by their digests in the seals, not by their path.
    return STAGES[stage][1] + by_engine + optional + tuple(key for key in by_model if key != WEIGHTS_FROM)


def encode_values(stage: str, config: Parameters) -> str:
    """Configuration values that `select_parameters` needs for a stage, as JSON for a command line."""
    keys = {*list_keys(stage, config), *(["trajectories"] if stage in READS_PROMPTS else [])}
    values = {key: hide_folder(config[key]) if key in LOCAL_PATHS else config[key] for key in keys}
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


def list_shards(parameters: Trajectories) -> list[str]:
    """Shard names `000`, `001`, ...: one per `prompts_per_shard` prompts."""
    count = -(-len(parameters.prompts) // parameters.prompts_per_shard)
    return [f"{index:03d}" for index in range(count)]


def list_rows(parameters: Trajectories, shard: str) -> list[list[int]]:
    """Pairs [trajectory, prompt index] of a shard, prompt by prompt; trajectory j uses prompt j mod P."""
    count, first = len(parameters.prompts), int(shard) * parameters.prompts_per_shard
    indices = range(first, min(first + parameters.prompts_per_shard, count))
    return [[j, p] for p in indices for j in range(p, parameters.trajectories, count)]


def list_shard_prompts(parameters: Trajectories, shard: str) -> list[str]:
    """The prompts of a shard."""
    first = int(shard) * parameters.prompts_per_shard
    return list(parameters.prompts[first : first + parameters.prompts_per_shard])


def select_shard(parameters: CollectShard, shard: str) -> ShardParameters:
    """The parameters of one shard: those of its stage, restricted to its prompts and trajectories."""
    shared = {field.name: getattr(parameters, field.name) for field in fields(ShardKeys)}
    prompts, rows = list_shard_prompts(parameters, shard), list_rows(parameters, shard)
    return ShardParameters(**shared, shard=shard, prompts=prompts, rows=rows)


def place_store(config: Parameters) -> str:
    """Folder or URL of the trajectory store."""
    return (config["trajectories_url"] or f"{config['results_dir']}/trajectories.zarr").rstrip("/")


def list_block_names(model: str) -> list[str]:
    """The block names of a model: `mm_00`, `mm_01`, ..., then `uni_00`, ..."""
    return list(dict.fromkeys(stream.block for stream in list_streams(*MODEL_BLOCKS[model])))


def list_layers(model: str) -> list[Layer]:
    """All linear layers of a model, as in `list_linears`."""
    return list_linears(*MODEL_BLOCKS[model])


def list_units(model: str) -> list[str]:
    """Units quantized by one job each: the blocks of a model, and the layers outside the blocks."""
    return [*list_block_names(model), SHARED]


def name_stage(unit: str) -> str:
    """The stage that quantizes `unit`: a block, the layers outside the blocks, or the whole model."""
    return {SHARED: "round_shared", WHOLE: "distil"}.get(unit, "optimise_block")


def select_row_keys(parameters: ModelStage) -> Parameters:
    """Parameters that must agree between a stage and the captured rows it reads."""
    record = parameters.encode()
    return {key: record[key] for key in ROW_KEYS if key in record}


def count_conditions(model: str) -> int:
    """Number of conditions per point: 2 (prompt and negative prompt), or 1 for a model without guidance."""
    return 1 if model in UNGUIDED else 2


def list_stage_shards(count: int) -> list[str]:
    """Names `00`, `01`, ... of the `count` shards of a stage's points."""
    return [f"{index:02d}" for index in range(count)]


def find_conflicts(results: Path, parameters: CollectShard) -> Iterator[str]:
    """Yield one line per finished trajectory shard in `results` made with other parameters, naming a difference.

    Unreadable seals are reported too. For a shard at a URL, its receipt is read.
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
        wanted = select_shard(parameters, folder.name).encode() if folder.name in planned else None
        if isinstance(sealed, dict) and sealed.get("shard", folder.name) != folder.name:
            yield f"{folder} is the shard {sealed['shard']}; delete it and run again"
        elif difference := describe_difference(sealed, wanted):
            yield f"{folder} was made with other parameters ({difference})"


def take_sealed(seal: Any) -> Parameters:
    """The parameters in a seal. Raises ValueError, KeyError or TypeError if the seal is damaged."""
    if fingerprint({key: seal[key] for key in seal if key != "checksum"}) != seal["checksum"]:
        raise ValueError("its checksum does not match")
    parameters: Parameters = seal["parameters"]
    return parameters


def describe_difference(found: Any, wanted: Mapping[str, Any] | None) -> str:
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
