"""Ladder of weight quantization methods: the configuration changes of each rung. Standard library only.

The rungs lead from RTN to the full method, one change at a time; all are evaluated on the same seeds and prompts.
"""

from typing import Any

from taqmlx.planning.documents import Config, Rule
from taqmlx.planning.layers import BLOCK_KINDS

BLOCKS = tuple(f"{kind}_*" for kind in BLOCK_KINDS)  # for all models, with or without unified blocks
MODULATION = "*adaLN_modulation"
UNROUNDED = [{"layers": "*", "bits": 16}]


def choose_weights(bits: int = 4, modulation_bits: int = 8, **changes: Any) -> list[Rule]:
    """Weight rules with `bits` for all layers in blocks and `modulation_bits` for adaLN layers."""
    blocks = ({"layers": layers, "bits": bits} | changes for layers in BLOCKS)
    return [*blocks, {"layers": MODULATION, "bits": modulation_bits}]


def choose_activations(policy: str = "lut", activation_bits: int = 8, **changes: Any) -> list[Rule]:
    """Input rules with `activation_bits` for all layers in blocks; adaLN inputs are not quantized."""
    plain = {"bits": activation_bits, "policy": policy, "shift": False, "migration": False} | changes
    return [*({"layers": layers} | plain for layers in BLOCKS), {"layers": MODULATION, "bits": 16}]


RTN, _GPTQ = {"engine": "rtn"}, {"engine": "gptq"}
PAPER = {"engine": "adaround", "adaround_start": "full_precision"}
_W4A4 = {"weights": choose_weights(), "activations": choose_activations(activation_bits=4)}
_W4A8 = {"weights": choose_weights(), "activations": choose_activations()}
_LEARNED = {"engine": "adaround", "adaround_start": "gptq"}
_SHIFTED = _LEARNED | _W4A8 | {"activations": choose_activations(shift=True)}
# The folds of every layer input that can have one of a kind.
SCALES, CENTRES, PERMUTATIONS, ROTATIONS = (
    [{"layers": "*", "kind": kind}] for kind in ("scale", "centre", "permutation", "rotation")
)


def choose_input_rounding(policy: str, **changes: Any) -> Config:
    """Changes of a rung with 8-bit inputs beside unquantized weights, whose error hides that of inputs."""
    return RTN | {"weights": UNROUNDED, "activations": choose_activations(policy, **changes)}


FULL_PRECISION = "full_precision"

# name: (title, configuration changes)
RUNGS: dict[str, tuple[str, Config]] = {
    FULL_PRECISION: ("full precision", RTN | {"weights": UNROUNDED, "activations": UNROUNDED}),
    "w8a8_rtn": (
        "W8A8, RTN, static",
        RTN | {"weights": choose_weights(8), "activations": choose_activations("static")},
    ),
    "w4a16_rtn_row": (
        "W4A16, RTN, per row",
        RTN | {"weights": choose_weights(group_size="row"), "activations": UNROUNDED},
    ),
    "w4a16_rtn_g128": (
        "W4A16, RTN, groups of 128",
        RTN | {"weights": choose_weights(group_size=128), "activations": UNROUNDED},
    ),
    "w4a16_rtn_g64": (
        "W4A16, RTN, groups of 64",
        RTN | {"weights": choose_weights(group_size=64), "activations": UNROUNDED},
    ),
    "w4a16_rtn_g32": (
        "W4A16, RTN, groups of 32",
        RTN | {"weights": choose_weights(group_size=32), "activations": UNROUNDED},
    ),
    "w4a8_rtn_static": ("W4A8, RTN, static", RTN | _W4A8 | {"activations": choose_activations("static")}),
    "w4a8_rtn_sigma": ("W4A8, RTN, per sigma", RTN | _W4A8),
    "w4a8_rtn_dynamic": ("W4A8, RTN, per token", RTN | _W4A8 | {"activations": choose_activations("dynamic")}),
    "w4a8_rtn_groups": (
        "W4A8, RTN, per token and 32 channels",
        RTN | _W4A8 | {"activations": choose_activations("dynamic", group_size=32)},
    ),
    "w16a8_static": ("W16A8, static", choose_input_rounding("static")),
    "w16a8_sigma": ("W16A8, per sigma", choose_input_rounding("lut")),
    "w16a8_dynamic": ("W16A8, per token", choose_input_rounding("dynamic")),
    "w16a8_groups": ("W16A8, per token and 32 channels", choose_input_rounding("dynamic", group_size=32)),
    "w16a8_affine": ("  + zero point", choose_input_rounding("affine", group_size=32)),
    "w16a8_centre": ("  + centres", choose_input_rounding("affine", group_size=32) | {"folds": CENTRES}),
    "w16a8_shift": ("W16A8, per sigma, shift", choose_input_rounding("lut", shift=True)),
    "w16a8_scale": ("W16A8, per sigma, smoothing", choose_input_rounding("lut") | {"folds": SCALES}),
    "w4a8_rtn_bias": ("W4A8, RTN, per sigma, bias correction", RTN | _W4A8 | {"bias_correction": True}),
    "w4a8_rtn_scale": ("W4A8, RTN, per sigma, smoothing", RTN | _W4A8 | {"folds": SCALES}),
    "w4a16_adaln4_rtn": (
        "W4A16, RTN, adaLN layers 4 bits",
        RTN | {"weights": choose_weights(modulation_bits=4), "activations": UNROUNDED},
    ),
    "w4a16_adaln4_gptq": (
        "W4A16, GPTQ, adaLN layers 4 bits",
        _GPTQ | {"weights": choose_weights(modulation_bits=4), "activations": UNROUNDED},
    ),
    "w4a16_gptq": ("W4A16, GPTQ", _GPTQ | {"weights": choose_weights(), "activations": UNROUNDED}),
    "w4a8_gptq": ("W4A8, GPTQ", _GPTQ | _W4A8),
    "w4a8_gptq_bias": ("W4A8, GPTQ, bias correction", _GPTQ | _W4A8 | {"bias_correction": True}),
    "w4a8_gptq_weighted": (
        "W4A8, GPTQ, ranges weighted by the inputs",
        _GPTQ | _W4A8 | {"weights": choose_weights(range="weighted")},
    ),
    "w4a8_gptq_scale": ("W4A8, GPTQ, smoothing", _GPTQ | _W4A8 | {"folds": SCALES}),
    "w4a8_gptq_permutation": ("W4A8, GPTQ, permutation", _GPTQ | _W4A8 | {"folds": PERMUTATIONS}),
    "w4a8_gptq_rotation": ("W4A8, GPTQ, rotation", _GPTQ | _W4A8 | {"folds": ROTATIONS}),
    "w4a8_separate": ("W4A8, AdaRound, separate", PAPER | _W4A8 | {"reconstruction": "separate"}),
    "w4a8_joint": ("W4A8, AdaRound, joint", PAPER | _W4A8 | {"reconstruction": "joint"}),
    "w4a8_shift": ("  + shift", PAPER | _W4A8 | {"activations": choose_activations(shift=True)}),
    "w4a8_migration": (
        "  + migration",
        PAPER | _W4A8 | {"activations": choose_activations(shift=True, migration=True)},
    ),
    "w4a8_gptq_separate": ("from GPTQ's codes, separate", _LEARNED | _W4A8 | {"reconstruction": "separate"}),
    "w4a8_gptq_joint": ("from GPTQ's codes, joint", _LEARNED | _W4A8 | {"reconstruction": "joint"}),
    "w4a8_from_gptq": ("joint + shift, from GPTQ's codes", _SHIFTED),
    "w4a8_gptq_migration": (
        "  + migration",
        _SHIFTED | {"activations": choose_activations(shift=True, migration=True)},
    ),
    "w4a8_smoothing": ("  + smoothing", _SHIFTED | {"folds": SCALES}),
    "w4a8_permutation": ("  + permutation", _SHIFTED | {"folds": PERMUTATIONS}),
    "w4a8_rotation": ("  + rotation", _SHIFTED | {"folds": ROTATIONS}),
    "w4a8_folds": ("  + smoothing and permutation", _SHIFTED | {"folds": [*SCALES, *PERMUTATIONS]}),
    "w4a8_joint_static": ("  static", _SHIFTED | {"activations": choose_activations("static", shift=True)}),
    "w4a8_joint_dynamic": ("  per token", _SHIFTED | {"activations": choose_activations("dynamic", shift=True)}),
    "w4a8_sequential": ("  on quantized inputs, block after block", _SHIFTED | {"block_inputs": "quantized"}),
    # 8-bit activations add little error beside 4-bit weights; the benefit of joint learning shows with fewer bits.
    "w4a4_rtn_sigma": ("W4A4, RTN, per sigma", RTN | _W4A4),
    "w4a4_separate": ("W4A4, AdaRound, separate", PAPER | _W4A4 | {"reconstruction": "separate"}),
    "w4a4_joint": ("W4A4, AdaRound, joint", PAPER | _W4A4 | {"reconstruction": "joint"}),
}
OWN, OWN_TITLE = "own", "configured blocks, before distillation"
PACKED, PACKED_TITLE = "packed", "configured model, from the packed files"

# The rung that differs from a rung by one remedy alone; the gain of the remedy is measured against it.
BASES = {
    "w16a8_sigma": "w16a8_static",
    "w16a8_dynamic": "w16a8_sigma",
    "w16a8_groups": "w16a8_dynamic",
    "w16a8_affine": "w16a8_groups",
    "w16a8_centre": "w16a8_affine",
    "w16a8_shift": "w16a8_sigma",
    "w16a8_scale": "w16a8_sigma",
    "w4a8_rtn_sigma": "w4a8_rtn_static",
    "w4a8_rtn_dynamic": "w4a8_rtn_sigma",
    "w4a8_rtn_bias": "w4a8_rtn_sigma",
    "w4a8_rtn_scale": "w4a8_rtn_sigma",
    "w4a8_gptq": "w4a8_rtn_sigma",
    "w4a8_gptq_bias": "w4a8_gptq",
    "w4a8_gptq_weighted": "w4a8_gptq",
    "w4a8_gptq_scale": "w4a8_gptq",
    "w4a8_gptq_permutation": "w4a8_gptq",
    "w4a8_gptq_rotation": "w4a8_gptq",
    "w4a8_separate": "w4a8_gptq",
    "w4a8_joint": "w4a8_separate",
    "w4a8_shift": "w4a8_joint",
    "w4a8_migration": "w4a8_shift",
    "w4a8_gptq_separate": "w4a8_gptq",
    "w4a8_gptq_joint": "w4a8_gptq_separate",
    "w4a8_from_gptq": "w4a8_gptq_joint",
    "w4a8_gptq_migration": "w4a8_from_gptq",
    "w4a8_smoothing": "w4a8_from_gptq",
    "w4a8_permutation": "w4a8_from_gptq",
    "w4a8_rotation": "w4a8_from_gptq",
    "w4a8_folds": "w4a8_from_gptq",
    "w4a8_joint_static": "w4a8_from_gptq",
    "w4a8_joint_dynamic": "w4a8_from_gptq",
    "w4a8_sequential": "w4a8_from_gptq",
    "w4a4_separate": "w4a4_rtn_sigma",
    "w4a4_joint": "w4a4_separate",
    PACKED: OWN,
}
