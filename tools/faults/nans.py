"""NaN and infinities under valid digests: in weights, activations, states, conditioning and other files.

The first job that reads one must stop with a line that locates it: file, layer, block, step, trajectory, prompt or
calibration point, as far as they exist.
"""

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.faults.outcomes import Outcome
from tools.faults.poisons import (
    Poison,
    poison_block,
    poison_calibration,
    poison_conditioning,
    poison_distillation,
    poison_distilled,
    poison_named,
    poison_observations,
    poison_overflow,
    poison_packed,
    poison_rate,
    poison_rows,
    poison_sealed,
    poison_states,
    poison_weights,
)
from tools.faults.undisturbed import ROOT, Job, Run, copy_results, delete, run_command, run_quick

VALUES = {"NaN": np.nan, "an infinity": np.inf, "a negative infinity": -np.inf}


class Case(NamedTuple):
    """What has the value, the rule whose job has to stop, and how it gets there: `poison` says what has to be named.

    before: rules whose jobs run first, so that what the job reads is of the same weights; part: of the job's outputs.
    """

    place: str
    rule: str
    poison: Poison
    before: tuple[str, ...] = ()
    part: str = ""


def plant(count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Every value in every place, in turn, `count` times in all; which number it is of the file is chosen by chance."""
    run, rng = run_quick(folder / "undisturbed"), random.Random(seed)
    package = copy_package(folder / "package")
    for index in range(count):
        case = CASES[index % len(CASES)]
        name = list(VALUES)[index // len(CASES) % len(VALUES)]
        note = judge(run, case, VALUES[name], rng, folder / "copy", package)
        yield Outcome("nans", name, case.place, not note, note and f"{case.rule}: {note}")


def judge(run: Run, case: Case, value: float, rng: random.Random, results: Path, package: Path) -> str:
    """Plant the value and run one of the rule's jobs; what did not hold, or an empty string."""
    job = rng.choice([job for job in run.jobs if job.rule == case.rule and case.part in job.outputs[0]])
    before = [job for job in run.jobs if job.rule in case.before]
    delete(results)
    copy_results(run.results, results, [place for other in (*before, job) for place in other.written])
    restore_package(package)
    in_weights = case.place in WEIGHTS
    words = case.poison(package / MODEL / WEIGHTS[case.place] if in_weights else results, value, rng)
    root = package if in_weights else ROOT
    for other in before:
        run_command(other.fill_in(results), root=root)
    done = run_command(job.fill_in(results), root=root)
    return judge_stop(done.returncode, done.stderr, words) or find_published(job, results)


def judge_stop(code: int, said: str, words: list[str]) -> str:
    """What is wrong with how a job stopped: it has to say all of `words` in one line."""
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code == 0:
        return "it went unnoticed"
    if "Traceback" in said or len(errors) != 1 or "Error:" in errors[0]:
        return f"no clear line: {said[-300:]!r}"
    missing = [word for word in words if not re.search(word, errors[0])]
    return f"{missing} not named: {errors[0]}" if missing else ""


def find_published(job: Job, results: Path) -> str:
    """What a job that stopped has left under its outputs' names."""
    # A seal is written last: what it would vouch for is nothing without it.
    sealed = [place for place in job.outputs if (results / place).exists()]
    return f"left {sealed}" if len(sealed) == len(job.outputs) and sealed else ""


MODEL = Path("taqmlx/models/embedded_model")
WEIGHTS = {
    "the transformer's weights": "transformer.safetensors",
    "the text encoder's weights": "text_encoder.safetensors",
    "the decoder's weights": "autoencoder.safetensors",
    "activations": "transformer.safetensors",
}
CASES = [
    Case("the transformer's weights", "collect_shard", poison_weights, ("encode_prompts",)),
    Case("the transformer's weights", "generate_images", poison_weights),
    Case("the text encoder's weights", "encode_prompts", poison_weights),
    Case("the decoder's weights", "decode_latents", poison_weights),
    Case("activations", "collect_shard", poison_overflow, ("encode_prompts",)),
    Case("activations", "collect_activations", poison_overflow),
    Case("activations", "capture_blocks", poison_overflow),
    Case("activations", "generate_images", poison_overflow, part="/fp/"),
    Case("activations", "measure_growth", poison_overflow),
    Case("activations", "measure_costs", poison_overflow),
    Case("activations", "round_shared", poison_overflow),
    Case("learning", "optimise_block", poison_rate),
    Case("distillation", "distil", poison_distillation),
    Case("states", "gather_calibration", poison_states),
    Case("conditioning", "collect_shard", poison_conditioning),
    Case("calibration points", "collect_activations", poison_calibration),
    Case("calibration points", "capture_blocks", poison_calibration),
    Case("calibration points", "measure_costs", poison_calibration),
    Case("calibration points", "round_shared", poison_calibration),
    Case("calibration points", "distil", poison_calibration),
    Case("captured rows", "optimise_block", poison_rows),
    Case("captured rows", "measure_sensitivity", poison_rows),
    Case("observed activations", "merge_activations", poison_observations),
    Case("a quantized block", "distil", poison_block),
    Case("the distilled model", "pack_weights", poison_distilled),
    Case("statistics", "write_quant_config", poison_named("activations/statistics.json")),
    Case("packed weights", "measure_size", poison_packed, part="/w4a8"),
    Case("the quantization config's arrays", "write_multitier", poison_named("quant_config.json")),
    Case("sensitivity", "plot_blocks", poison_named("sensitivity/mm_0?.json")),
    Case("features", "compare_variant", poison_sealed("evaluation/features/*/00.safetensors")),
    Case("pictures' latents", "compare_variant", poison_sealed("evaluation/images/*/00/*.safetensors"), part="/w4a8"),
]


def copy_package(target: Path) -> Path:
    """The package in a folder of its own, to be changed where jobs find it; the model's files are copies."""
    for package in ("taqmlx", "workflow_scripts"):
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def restore_package(target: Path) -> None:
    """Put the model's files back."""
    for name in WEIGHTS.values():
        shutil.copy(ROOT / MODEL / name, target / MODEL / name)
