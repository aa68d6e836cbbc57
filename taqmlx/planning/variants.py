"""Variants to sample and compare: how their layers are quantized and which noise they start from. Stdlib only."""

from typing import NamedTuple

from taqmlx.planning import ablation, ladder
from taqmlx.planning.documents import Config

FULL_PRECISION, OTHER_SEEDS, RERUN = "fp", "fp_other_seeds", "fp_rerun"
BATCH, RERUN_BATCH = 32, 24


class Variant(NamedTuple):
    """One way to generate the images.

    title: name in tables; source: `none`, `weights` (packed), `quant_config`, `multitier` or `blocks` (of a `rung`);
    batch: images sampled together; seeds: offset of the seeds, in multiples of the number of images.
    """

    title: str
    source: str
    rung: str | None = None
    batch: int = BATCH
    seeds: int = 0


# Every model that is quantized block by block and sampled: the rungs of the ladder and the rows of the ablation.
RUNGS = ladder.RUNGS | ablation.ROWS
# Variants that a configuration can name; every rung is one, under its own name.
VARIANTS: dict[str, Variant] = {
    FULL_PRECISION: Variant("full precision", "none"),
    "rtn_w4a8": Variant("W4A8, RTN, per sigma", "blocks", rung="w4a8_rtn_sigma"),
    "w4a16": Variant("packed weights", "weights"),
    "w4a8": Variant("packed weights and the quantization config", "quant_config"),
    "multitier": Variant("packed weights, inputs of 4, 6 and 8 bits", "multitier"),
} | {
    name: Variant(title.strip(), "blocks", rung=name)
    for name, (title, _) in RUNGS.items()
    if name != ladder.FULL_PRECISION
}

# Two more runs in full precision, to measure the noise floor: other noise, and the same noise in batches of another
# size, which changes only the order of floating-point sums.
NOISE_FLOOR: dict[str, Variant] = {
    OTHER_SEEDS: Variant("full precision, other seeds", "none", seeds=1),
    RERUN: Variant(f"full precision, batches of {RERUN_BATCH}", "none", batch=RERUN_BATCH),
}
ALL = VARIANTS | NOISE_FLOOR
# Sources whose bit widths depend on the configuration, so that a fixed title cannot name them.
BY_CONFIGURATION = ("weights", "quant_config")


def change(config: Config, rung: str) -> Config:
    """The configuration of a rung; defaults of its rules are not filled in yet."""
    return config | {"bits_per_weight": None, "folds": []} | RUNGS[rung][1]


def list_sources(variant: str, results: str, blocks: list[str]) -> list[str]:
    """Files that the layers of a variant are read from; of packed weights and configs, the first names the rest."""
    found = ALL[variant]
    return {
        "none": [],
        "weights": [f"{results}/quantized/model.safetensors", f"{results}/quantized/config.json"],
        "quant_config": [f"{results}/quant_config.json", f"{results}/quantized/model.safetensors"],
        "multitier": [f"{results}/quant_config_multitier.json", f"{results}/quantized/model.safetensors"],
        "blocks": [f"{results}/ladder/{found.rung}/{block}.safetensors" for block in blocks],
    }[found.source]
