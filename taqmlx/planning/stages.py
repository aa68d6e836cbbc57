"""Parameters of every stage: what its workers read from `<results>/params/<stage>.json`. Standard library only.

The fields have the names of the configuration keys, which config/config.schema.yaml describes. The file holds them with
`stage` and `version`, and nothing else. Raise the version of a stage when a code change alters its results. The stages
that draw and compare pictures are in `evaluation_stages.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from taqmlx.planning.evaluation_stages import (
    CompareVariant,
    DrawReference,
    ExtractFeatures,
    GenerateImages,
    MeasureFrontier,
    MeasureGrowth,
    MeasureSize,
    Score,
    WriteEvaluationPrompts,
)
from taqmlx.planning.folds import FoldPattern
from taqmlx.planning.layer_rules import InputPattern, LayerRules, WeightPattern
from taqmlx.planning.stage_groups import (
    AdaRound,
    Distillation,
    Gptq,
    LayerPatterns,
    ModelStage,
    PromptReader,
    Rtn,
    Stage,
    Thresholds,
    Trajectories,
)


@dataclass(frozen=True, kw_only=True)
class FetchWeights(Stage, stage="fetch_weights", version=2):
    use_t5: bool


@dataclass(frozen=True, kw_only=True)
class EncodePrompts(ModelStage, PromptReader, stage="encode_prompts", version=1):
    negative_prompt: str


@dataclass(frozen=True, kw_only=True)
class ShardKeys(ModelStage, stage="collect_shard", version=1):
    negative_prompt: str
    steps: int
    seed: int
    cfg_scale: float
    batch_size: int
    checkpoint_every: int


@dataclass(frozen=True, kw_only=True)
class CollectShard(ShardKeys, Trajectories):
    pass


@dataclass(frozen=True, kw_only=True)
class ShardParameters(ShardKeys, PromptReader):
    """One shard: its name, its prompts, and pairs of trajectory and prompt index, prompt by prompt."""

    shard: str
    rows: Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class GatherCalibration(Stage, Trajectories, stage="gather_calibration", version=1):
    selected_steps: int


@dataclass(frozen=True, kw_only=True)
class CollectActivations(ModelStage, stage="collect_activations", version=3):
    seed: int
    statistics_steps: int | Literal["all", "key"]
    statistics_points: int
    statistics_shards: int


@dataclass(frozen=True, kw_only=True)
class FoldModel(ModelStage, LayerPatterns, stage="fold_model", version=1):
    seed: int
    held_out: float
    folds: Sequence[FoldPattern]
    fold_points: int


@dataclass(frozen=True, kw_only=True)
class CaptureBlocks(ModelStage, stage="capture_blocks", version=1):
    seed: int
    capture_points: int
    capture_shards: int


@dataclass(frozen=True, kw_only=True)
class CaptureParameters(CaptureBlocks):
    """One shard: its name, the indices of its points in the calibration set, by step, and its blocks, None for all."""

    shard: str
    points: Sequence[int]
    blocks: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class MeasureCosts(ModelStage, stage="measure_costs", version=1):
    seed: int
    weights: Sequence[WeightPattern]
    search_points: int
    search_probes: int
    gptq_damping: float


@dataclass(frozen=True, kw_only=True)
class SearchBits(Stage, stage="search_bits", version=2):
    weights: Sequence[WeightPattern]
    bits_per_weight: float | None
    layout: str = "diffusionkit"


@dataclass(frozen=True, kw_only=True)
class BlockKeys(ModelStage, stage="optimise_block", version=2):
    seed: int
    engine: Literal["rtn", "gptq", "adaround"]
    block_inputs: Literal["full_precision", "quantized"]
    held_out: float
    bits_per_weight: float | None


@dataclass(frozen=True, kw_only=True)
class OptimiseBlock(BlockKeys, LayerPatterns, Rtn):
    """The keys for every engine; `plan.ENGINES` has the others."""


@dataclass(frozen=True, kw_only=True)
class BlockParameters(BlockKeys, Rtn):
    """One block: its name, and the rules of its layers in place of the patterns."""

    block: str
    layers: LayerRules


@dataclass(frozen=True, kw_only=True)
class GptqBlockParameters(BlockParameters, Gptq):
    pass


@dataclass(frozen=True, kw_only=True)
class AdaRoundBlockParameters(BlockParameters, AdaRound):
    pass


@dataclass(frozen=True, kw_only=True)
class RoundShared(ModelStage, LayerPatterns, stage="round_shared", version=1):
    seed: int
    engine: Literal["rtn", "gptq", "adaround"]
    held_out: float
    bits_per_weight: float | None
    search_points: int


@dataclass(frozen=True, kw_only=True)
class Distil(ModelStage, LayerPatterns, Distillation, stage="distil", version=1):
    held_out: float


@dataclass(frozen=True, kw_only=True)
class PackWeights(ModelStage, stage="pack_weights", version=2):
    weights: Sequence[WeightPattern]
    bits_per_weight: float | None


@dataclass(frozen=True, kw_only=True)
class SampleRung(ModelStage, PromptReader, stage="sample_rung", version=1):
    negative_prompt: str
    seed: int
    cfg_scale: float
    trajectories: int
    ladder_pictures: int
    ladder_steps: int


@dataclass(frozen=True, kw_only=True)
class WriteQuantConfig(Stage, stage="write_quant_config", version=2):
    activations: Sequence[InputPattern]


@dataclass(frozen=True, kw_only=True)
class MeasureSensitivity(ModelStage, LayerPatterns, stage="measure_sensitivity", version=2):
    seed: int
    evaluation_cfg: float


@dataclass(frozen=True, kw_only=True)
class WriteMultitier(Stage, stage="write_multitier", version=1):
    multitier_rule: Literal["measured", "thresholds"]
    multitier_budget: float
    multitier_thresholds: Thresholds
    weight_budget: float


@dataclass(frozen=True, kw_only=True)
class PlotActivations(Stage, stage="plot_activations", version=1):
    snapshot_steps: Sequence[int]


# By stage, in the order in which they run.
PARAMETERS: dict[str, type[Stage]] = {
    kind.stage: kind
    for kind in (
        FetchWeights,
        EncodePrompts,
        CollectShard,
        GatherCalibration,
        CollectActivations,
        FoldModel,
        CaptureBlocks,
        MeasureCosts,
        SearchBits,
        OptimiseBlock,
        RoundShared,
        Distil,
        PackWeights,
        SampleRung,
        WriteQuantConfig,
        MeasureSensitivity,
        WriteMultitier,
        PlotActivations,
        WriteEvaluationPrompts,
        DrawReference,
        GenerateImages,
        ExtractFeatures,
        MeasureGrowth,
        CompareVariant,
        MeasureSize,
        MeasureFrontier,
        Score,
    )
}
# Parameters of one block, by engine.
BLOCK_PARAMETERS: dict[str, type[BlockParameters]] = {
    "rtn": BlockParameters,
    "gptq": GptqBlockParameters,
    "adaround": AdaRoundBlockParameters,
}
