"""What is drawn to be compared: how each variant's layers are quantized and which noise it starts from. Stdlib only."""

from typing import Any, NamedTuple

from taqmlx.planning import ablation, ladder

FULL_PRECISION, OTHER_SEEDS, RERUN = "fp", "fp_other_seeds", "fp_rerun"
BATCH, RERUN_BATCH = 32, 24


class Variant(NamedTuple):
    """title; source: `none`, `weights` (packed), `quant_config`, `multitier` or `blocks` (of a `rung`); batch: how many
    pictures advance together; seeds: how many times the number of pictures the seeds are moved on."""

    title: str
    source: str
    rung: str | None = None
    batch: int = BATCH
    seeds: int = 0


# Everything that is quantized block by block and drawn: the rungs of the ladder and the rows of the ablation.
RUNGS = ladder.RUNGS | ablation.ROWS
# Those a configuration can name. Every rung is one too, under its own name.
VARIANTS: dict[str, Variant] = {
    FULL_PRECISION: Variant("full precision", "none"),
    "rtn_w4a8": Variant("W4A8, to nearest, per sigma", "blocks", rung="w4a8_rtn_sigma"),
    "w4a16": Variant("packed weights", "weights"),
    "w4a8": Variant("packed weights and the quantization config", "quant_config"),
    "multitier": Variant("packed weights, inputs of 4, 6 and 8 bits", "multitier"),
} | {
    name: Variant(title.strip(), "blocks", rung=name)
    for name, (title, _) in RUNGS.items()
    if name != ladder.FULL_PRECISION
}

# How far apart two runs of full precision are: from other noise, and from the same noise in batches of another size,
# which changes nothing but the order of floating-point sums.
NOISE_FLOOR: dict[str, Variant] = {
    OTHER_SEEDS: Variant("full precision, other seeds", "none", seeds=1),
    RERUN: Variant(f"full precision again, {RERUN_BATCH} pictures at a time", "none", batch=RERUN_BATCH),
}
ALL = VARIANTS | NOISE_FLOOR
# The sources whose widths the configuration decides, and no title can know.
BY_CONFIGURATION = ("weights", "quant_config")


def change(config: dict[str, Any], rung: str) -> dict[str, Any]:
    """The configuration of a rung; its rules are still without their defaults."""
    return config | {"bits_per_weight": None} | RUNGS[rung][1]


def list_sources(variant: str, results: str, blocks: list[str]) -> list[str]:
    """The files a variant's layers come from; the first of those of packed weights or of a config names the rest."""
    found = ALL[variant]
    return {
        "none": [],
        "weights": [f"{results}/quantized/model.safetensors", f"{results}/quantized/config.json"],
        "quant_config": [f"{results}/quant_config.json", f"{results}/quantized/model.safetensors"],
        "multitier": [f"{results}/quant_config_multitier.json", f"{results}/quantized/model.safetensors"],
        "blocks": [f"{results}/ladder/{found.rung}/{block}.safetensors" for block in blocks],
    }[found.source]
