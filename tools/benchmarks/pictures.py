"""Pictures per second of every variant, the cost of simulated 8-bit activations, and the quick evaluation's time."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from taqmlx.mmdit.sampling import sample
from taqmlx.models.catalogue import find_model
from taqmlx.numerics.schedule import draw_noise
from taqmlx.planning import plan
from taqmlx.planning.variants import BATCH, VARIANTS, list_sources
from taqmlx.reconstruction.variant_linears import bind_source
from tools.benchmarks.table import Row, time_interleaved
from tools.benchmarks.workflow import QUICK, run_snakemake, write_config

MODEL, STEPS, CFG, ROUNDS = "embedded", 28, 3.0, 7
NAMES = ("fp", "rtn_w4a8", "w4a16", "w4a8", "multitier")


def bind_drawing(results: Path, variant: str) -> Callable[[], object]:
    """Draws a batch of a variant's pictures, from noise to pixels."""
    model = find_model(MODEL)
    transformer, decoder = model.load_transformer(), model.load_decoder()
    files = list_sources(variant, str(results), plan.list_block_names(MODEL))
    linear_at = bind_source(transformer, VARIANTS[variant].source, [Path(file) for file in files])
    encodings = model.encode_prompts(["a red circle left of a blue square"] * BATCH, "")
    noise, sigmas = draw_noise(range(BATCH), *model.LATENT_SHAPE), model.compute_sigmas(STEPS)
    mx.eval(*encodings, noise)

    def draw() -> object:
        latents = sample(transformer, linear_at, *encodings, noise, sigmas, CFG, lambda count: None)
        return model.decode_latents(decoder, latents)

    return draw


def measure() -> list[Row]:
    """All rows of this file, on a quick run of its own in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, results = write_config(folder, QUICK), folder / "results"
        blocks = plan.list_block_names(MODEL)
        files = [file for variant in NAMES for file in list_sources(variant, str(results), blocks)]
        run_snakemake(config, "quant_config", *dict.fromkeys(files), cores=2)
        seconds = run_snakemake(config, "evaluation", cores=2)
        runs = {variant: bind_drawing(results, variant) for variant in NAMES}
        for draw in runs.values():
            draw()
        times = time_interleaved(runs, ROUNDS)
    rows = [Row(f"{variant}, {STEPS} steps, one worker", BATCH / times[variant], "pictures/s") for variant in NAMES]
    rows.append(Row("w4a8 / full precision, time", times["w4a8"] / times["fp"], "x", "<= 1.5"))
    rows.append(Row("evaluation of config/quick.yaml, two cores", seconds, "s", "<= 180"))
    return rows
