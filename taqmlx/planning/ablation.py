"""Ablation study of the TaQ-DiT paper: the configuration changes of each row. Standard library only.

Source: Liu et al. 2024, arXiv:2411.14172, tables on joint reconstruction and its parts. The quantizers are the paper's:
per-output-channel weights and one step size per input tensor, except that inputs are symmetric; adaLN weights have 8
bits where everything is quantized. A row is quantized and sampled like a rung of the ladder.
"""

from taqmlx.planning.documents import Config, Rule
from taqmlx.planning.ladder import PAPER, RTN, UNROUNDED, choose_activations, choose_weights

_ROW: Rule = {"group_size": "row"}
_W4 = {"weights": choose_weights(**_ROW)}
_A8 = {"activations": choose_activations("static")}
_JOINT = PAPER | {"reconstruction": "joint"}
_FC2_AT_16_BITS = {"layers": "*.mlp.fc2", "bits": 16}


def _quantize_only(pattern: str, *except_for: Rule) -> Config:
    """Rules that quantize only the layers matching `pattern`; `except_for` are additional input rules."""
    return {
        "weights": [*UNROUNDED, {"layers": pattern, "bits": 4} | _ROW],
        "activations": [*UNROUNDED, choose_activations("static")[0] | {"layers": pattern}, *except_for],
    }


# name: (title, configuration changes)
ROWS: dict[str, tuple[str, Config]] = {
    "paper_rtn": ("W4A8, RTN", RTN | _W4 | _A8),
    "paper_separate_w4": (
        "W4A16, separate",
        PAPER | _W4 | {"activations": UNROUNDED, "reconstruction": "separate"},
    ),
    "paper_separate": ("W4A8, separate", PAPER | _W4 | _A8 | {"reconstruction": "separate"}),
    "paper_joint": ("W4A8, joint", _JOINT | _W4 | _A8),
    "paper_attention": ("joint, attention only", _JOINT | _quantize_only("*.attn.*")),
    "paper_feed_forward": ("joint, feed-forward only", _JOINT | _quantize_only("*.mlp.*")),
    "paper_feed_forward_no_gelu": (
        "joint, feed-forward without post-GELU inputs",
        _JOINT | _quantize_only("*.mlp.*", _FC2_AT_16_BITS),
    ),
    "paper_no_gelu": (
        "joint, without post-GELU inputs",
        _JOINT | _W4 | {"activations": [*choose_activations("static"), _FC2_AT_16_BITS]},
    ),
    "paper_shift": ("joint + shift", _JOINT | _W4 | {"activations": choose_activations("static", shift=True)}),
    "paper_migration": (
        "joint + shift + migration",
        _JOINT | _W4 | {"activations": choose_activations("static", shift=True, migration=True)},
    ),
}
VARIANTS = ["fp", *ROWS, "w4a8"]

# FID of DiT-XL/2 on ImageNet 256 x 256, 100 steps, guidance 1.5, 10,000 images, as reported in the paper; 6.03 is from
# its abstract.
PAPER_FID = {
    "fp": 5.00,
    "paper_separate_w4": 8.01,
    "paper_separate": 12.97,
    "paper_joint": 6.61,
    "paper_attention": 5.74,
    "paper_feed_forward": 7.66,
    "paper_feed_forward_no_gelu": 6.19,
    "paper_migration": 6.03,
}


def change(config: Config) -> Config:
    """The configuration of the ablation study: its number of images, and its rows between full precision and our own
    method.
    """
    return config | {
        "evaluation_pictures": config["ablation_pictures"],
        "evaluation_variants": VARIANTS,
    }
