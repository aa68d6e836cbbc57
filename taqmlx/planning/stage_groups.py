"""What stages share: reading and writing of their parameters, and groups of keys. Standard library only."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal, Self, TypedDict, get_type_hints

from taqmlx.planning.json_types import fits
from taqmlx.planning.layer_rules import InputPattern, WeightPattern

IDENTITY = ("stage", "version")  # keys of every parameter file besides the values


class WeightFile(TypedDict):
    """A weight file of an evaluation network: its name and sha256 (hex)."""

    path: str
    sha256: str


class Thresholds(TypedDict):
    """Largest absmax with 4 and with 6 bits, of inputs without and with a shift."""

    plain: Sequence[float]
    shifted: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Parameters of a stage. A field with a default is optional: its key is absent at that value."""

    stage: ClassVar[str]
    version: ClassVar[int]
    model: str

    def __init_subclass__(cls, stage: str | None = None, version: int = 1) -> None:
        if stage:
            cls.stage, cls.version = stage, version

    def encode(self) -> dict[str, Any]:
        """The content of the parameter file, which is also what seals record."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        absent = {field.name for field in fields(self) if field.default == values[field.name]}
        present = {key: value for key, value in values.items() if key not in absent}
        return {"stage": self.stage, "version": self.version} | present

    @classmethod
    def decode(cls, content: Mapping[str, Any]) -> Self:
        """The parameters in `content`, as from `encode`.

        Raises ValueError naming the key that is unknown, missing, or has a value of another type.
        """
        kinds, required = get_type_hints(cls), set(list_fields(cls))
        values = {key: value for key, value in content.items() if key not in IDENTITY}
        for key in sorted(values.keys() | required):
            if key not in kinds:
                raise ValueError(f"{key} is unknown")
            if key not in values:
                raise ValueError(f"{key} is missing")
            if not fits(values[key], kinds[key]):
                raise ValueError(f"{key} has a value of another type")
        return cls(**values)


def list_fields(kind: type[Any]) -> tuple[str, ...]:
    """Names of the fields without a default of a dataclass."""
    return tuple(field.name for field in fields(kind) if field.default is MISSING)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options of a model; None where the model has no such option (`plan.MODEL_KEYS`)."""

    hardness: Sequence[str] | None = None
    use_t5: bool | None = None
    height: int | None = None
    width: int | None = None

    @classmethod
    def take(cls, values: Mapping[str, Any]) -> "ModelOptions":
        """The options in `values`, by key; other keys are ignored."""
        return ModelOptions(**{field.name: values.get(field.name) for field in fields(ModelOptions)})


@dataclass(frozen=True, kw_only=True)
class ModelStage(Stage, ModelOptions):
    """Stage whose workers load the model."""


@dataclass(frozen=True, kw_only=True)
class PromptReader:
    """The prompts that have a trajectory, read from the file that the key `prompts` names."""

    prompts: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Trajectories(PromptReader):
    """The trajectories and their division into shards."""

    trajectories: int
    steps: int
    seed: int
    cfg_scale: float
    prompts_per_shard: int


@dataclass(frozen=True, kw_only=True)
class Sampling(ModelStage):
    """Sampling of the evaluation's images."""

    negative_prompt: str
    evaluation_steps: int
    evaluation_cfg: float


@dataclass(frozen=True, kw_only=True)
class LayerPatterns:
    """Rules of the layers by name pattern; the last that matches a layer holds."""

    weights: Sequence[WeightPattern]
    activations: Sequence[InputPattern]


@dataclass(frozen=True, kw_only=True)
class Rtn:
    """Settings of every rounding engine, of RTN too."""

    bias_correction: bool = False


@dataclass(frozen=True, kw_only=True)
class Gptq(Rtn):
    """Settings of GPTQ."""

    gptq_damping: float


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Setting of the stages that learn: the type of the products of linear layers."""

    learning_dtype: Literal["float32", "bfloat16", "float16"] = "float32"


@dataclass(frozen=True, kw_only=True)
class AdaRound(Gptq, Precision):
    """Settings of learned rounding, which is compared with GPTQ and may start from its codes."""

    seed: int
    reconstruction: Literal["joint", "separate"]
    adaround_start: Literal["gptq", "full_precision"]
    adaround_iterations: int
    adaround_batch: int
    adaround_rate: float
    adaround_step_rate: float
    adaround_weight: float
    adaround_warm_up: float
    adaround_beta: Sequence[float]
    adaround_drop: float
    adaround_checkpoint_every: int
    adaround_patience: int = 0


MEASURED_POINTS = 256  # held-out points on which distillation measures the model before and after, at most


@dataclass(frozen=True, kw_only=True)
class Distillation(Precision):
    """Settings of the distillation of the whole model."""

    seed: int
    distil: Literal["codes", "scales", "none"]
    distil_iterations: int
    distil_batch: int
    distil_rate: float
    distil_code_rate: float
    distil_conditions: float
    distil_sigma_power: float
    distil_unroll: int
    distil_checkpoint_every: int
