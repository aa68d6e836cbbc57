"""Parameters of the stages that draw, measure and compare pictures. Standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass

from taqmlx.planning.stage_groups import ModelStage, PromptReader, Sampling, Stage, WeightFile


@dataclass(frozen=True, kw_only=True)
class WriteEvaluationPrompts(Stage, PromptReader, stage="write_evaluation_prompts", version=1):
    seed: int
    evaluation_prompts: str | None
    evaluation_pictures: int
    evaluation_seed: int


@dataclass(frozen=True, kw_only=True)
class DrawReference(Stage, stage="draw_reference", version=1):
    evaluation_pictures: int
    evaluation_seed: int


@dataclass(frozen=True, kw_only=True)
class GenerateImages(Sampling, stage="generate_images", version=1):
    evaluation_shards: int


@dataclass(frozen=True, kw_only=True)
class ExtractFeatures(Stage, stage="extract_features", version=2):
    inception: WeightFile | None
    clip: str | None
    evaluation_shards: int


@dataclass(frozen=True, kw_only=True)
class MeasureGrowth(Sampling, stage="measure_growth", version=1):
    pass


@dataclass(frozen=True, kw_only=True)
class CompareVariant(Stage, stage="compare_variant", version=2):
    evaluation_seed: int
    evaluation_shards: int
    lpips: WeightFile | None


@dataclass(frozen=True, kw_only=True)
class MeasureSize(ModelStage, stage="measure_size", version=2):
    pass


@dataclass(frozen=True, kw_only=True)
class MeasureFrontier(Sampling, stage="measure_frontier", version=1):
    frontier_pictures: int


@dataclass(frozen=True, kw_only=True)
class Score(Stage, stage="score", version=2):
    bits_per_weight: float | None
    evaluation_variants: Sequence[str]
    evaluation_steps: int
    evaluation_cfg: float
    evaluation_seed: int
    evaluation_shards: int
    reference_pictures: str | None
    lpips: WeightFile | None
