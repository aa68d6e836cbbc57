"""Order in which the parts of the method change a model: each sees what those before it made. Standard library only."""

from typing import NamedTuple


class Transform(NamedTuple):
    """A part of the method: its name, the stage that does it, the configuration key that asks for it, what it makes."""

    name: str
    stage: str
    key: str
    makes: str


ORDER = (
    Transform("fold", "fold_model", "folds", "weights of the same function, with other layer inputs"),
    Transform("shift", "optimise_block", "activations", "centres of post-GELU channels"),
    Transform("migration", "optimise_block", "activations", "integer divisors of post-GELU outlier channels"),
    Transform("grid", "optimise_block", "weights", "scales and zero points of the migrated weights"),
    Transform("GPTQ", "optimise_block", "engine", "codes on the grid"),
    Transform("learning", "optimise_block", "reconstruction", "codes, and step sizes of inputs"),
    Transform("bias correction", "optimise_block", "bias_correction", "biases, from the rounded weights and inputs"),
    Transform("distillation", "distil", "distil", "codes, scales, zero points, biases and step sizes"),
)
