"""NaN and infinities under valid digests: in weights, activations, states, conditioning and other files.

The first job that reads one must stop with a line that locates it: file, layer, block, step, trajectory, prompt or
calibration point, as far as they exist.
"""

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr

from taqmlx.store.block_inputs import digest_values, open_input_shard
from taqmlx.store.conditioning import NAMES, write_conditioning
from taqmlx.store.files import hash_file, write_json
from taqmlx.store.seal import identify_work, make_seal, read_file_seal, read_group_seal, write_group_seal
from taqmlx.store.tensors import read_metadata, read_sealed_tensors, read_tensors, write_sealed_tensors, write_tensors
from taqmlx.store.zarr_arrays import write_chunks
from tools.faults.damage import amend, forge
from tools.faults.outcomes import Outcome
from tools.faults.undisturbed import ROOT, Job, Run, copy_results, delete, run_command, run_quick

VALUES = {"NaN": np.nan, "an infinity": np.inf, "a negative infinity": -np.inf}
HUGE = 1e38  # a weight that is finite, and nothing after it

Poison = Callable[[Path, float, random.Random], list[str]]


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


def put(array: np.ndarray, value: float, rng: random.Random, kinds: str = "f") -> tuple[int, ...]:
    """Put the value at a place of `array` chosen by chance; which."""
    index = tuple(rng.randrange(size) for size in array.shape)
    array[index] = value
    return index


def choose_tensor(tensors: dict[str, np.ndarray], rng: random.Random, end: str = "") -> str:
    """The name of one of the floating-point arrays that end so."""
    return rng.choice(sorted(key for key, array in tensors.items() if array.dtype.kind == "f" and key.endswith(end)))


def poison_states(results: Path, value: float, rng: random.Random) -> list[str]:
    """A state of a trajectory."""
    shard = rng.choice(sorted(path for path in (results / "trajectories.zarr").iterdir() if path.is_dir()))
    detach(shard)
    parameters, row = read_group_seal(shard)["parameters"], 0
    step = rng.randrange(parameters["steps"])
    forge(shard, lambda group: group["xs"].__setitem__((row, step, 0, 0, rng.randrange(16)), value))
    number = parameters["rows"][row][0]
    return [f"{shard.name}: trajectory {number} ", rf"step {step}\b"]


def poison_conditioning(results: Path, value: float, rng: random.Random) -> list[str]:
    """The encoding of every prompt, so that whichever job runs reads one."""
    path = results / "conditioning.safetensors"
    seal, arrays = read_file_seal(path.with_suffix(".json")), read_tensors(path)
    name = rng.choice(NAMES)
    arrays[name][..., rng.randrange(arrays[name].shape[-1])] = value
    encodings = zip(*(arrays[name] for name in NAMES), strict=True)
    write_conditioning(path, seal["parameters"], seal["inputs"]["model"], encodings)
    # What is made from it is told by digests, and those of the seal have changed.
    return [re.escape(str(path)), rf"\b{name}\b"]


def poison_calibration(results: Path, value: float, rng: random.Random) -> list[str]:
    """A state in the calibration set, of every point, so that whichever is chosen has one."""
    path = results / "calibration.zarr"
    detach(path)
    opened = zarr.open_group(path, mode="r+")
    opened["xs"][..., 0] = value
    seal = read_group_seal(path)
    digests = seal["sha256"] | {"xs": hashlib.sha256(opened["xs"][...].tobytes()).hexdigest()}
    write_group_seal(path, make_seal(seal["parameters"], seal["inputs"], digests))
    return [r"calibration point \d+"]


def poison_rows(results: Path, value: float, rng: random.Random) -> list[str]:
    """A captured row of every block."""
    path = results / "block_inputs.zarr" / "00"
    detach(path)
    part = open_input_shard(path)
    digests = dict(part.seal["sha256"])
    spec = part.specs["image"]
    for block in range(spec.file_count[0]):
        values = next(part.iterate_chunks("image", block)).copy()
        put(values, value, rng)
        write_chunks(path, [(spec, (block, 0), values)])
        digests[spec.name_file((block, 0))] = digest_values(values)
    write_group_seal(path, make_seal(part.seal["parameters"], part.seal["inputs"], digests))
    return [re.escape(str(path / "image")), r"calibration point \d+"]


def poison_block(results: Path, value: float, rng: random.Random) -> list[str]:
    """A block's scales, biases, step sizes or shifts."""
    return poison_file(rng.choice(sorted((results / "adaround").glob("*.safetensors"))), value, rng)


def poison_file(path: Path, value: float, rng: random.Random) -> list[str]:
    """A number in a file of quantized layers, and its seal made to vouch for it."""
    tensors, metadata = read_tensors(path), read_metadata(path)
    name = choose_tensor(tensors, rng)
    put(tensors[name], value, rng)
    write_tensors(path, tensors, metadata)
    seal = read_file_seal(path.with_suffix(".json"))
    digests = seal["sha256"] | {path.name: hash_file(path)}
    write_json(path.with_suffix(".json"), make_seal(seal["parameters"], seal["inputs"], digests))
    return [re.escape(str(path)), re.escape(name)]


def poison_observations(results: Path, value: float, rng: random.Random) -> list[str]:
    """What a part of the statistics observed."""
    path = results / "activations" / "shards" / "00.safetensors"
    tensors = read_tensors(path)
    name = choose_tensor(tensors, rng)
    put(tensors[name], value, rng)
    write_tensors(path, tensors, read_metadata(path) or None)
    seal = read_file_seal(path.with_suffix(".json"))
    write_json(path.with_suffix(".json"), make_seal(seal["parameters"], seal["inputs"], {path.name: hash_file(path)}))
    return [re.escape(str(path)), re.escape(name)]


def poison_named(place: str) -> Poison:
    """The arrays beside a JSON file that has their digest as `arrays`."""

    def poison(results: Path, value: float, rng: random.Random) -> list[str]:
        path = rng.choice(sorted(results.glob(place)))
        arrays = path.with_suffix(".safetensors")
        tensors = read_tensors(arrays)
        name = choose_tensor(tensors, rng)
        put(tensors[name], value, rng)
        write_tensors(arrays, tensors)
        amend(path, lambda content: content["arrays"].update(sha256=hash_file(arrays)))
        return [re.escape(name.rpartition("/")[0]), re.escape(path.stem)]  # the layer, or what it reads

    return poison


def poison_packed(results: Path, value: float, rng: random.Random) -> list[str]:
    """The packed weights: a scale, or a weight that is not quantized; the quantization config with them."""
    path, config = results / "quantized" / "model.safetensors", results / "quantized" / "config.json"
    tensors = read_tensors(path)
    name = choose_tensor(tensors, rng)
    put(tensors[name], value, rng)
    write_tensors(path, tensors, read_metadata(path))
    amend(config, lambda content: content["model"].update(sha256=hash_file(path)))
    for file in results.glob("quant_config*.json"):
        amend(file, lambda content: content["weights"].update(sha256=hash_file(path)))
    return [re.escape(str(path)), re.escape(name)]


def poison_sealed(place: str) -> Poison:
    """A file that has its digest in itself; all that fit."""

    def poison(results: Path, value: float, rng: random.Random) -> list[str]:
        for path in sorted(results.glob(place)):
            arrays, about = read_sealed_tensors(path)
            name = choose_tensor(arrays, rng)
            put(arrays[name], value, rng)
            write_sealed_tensors(path, arrays, about)
        reseal_pictures(results)
        return [re.escape(str(results / place)).replace(r"\*", "[^/]+"), r"has values that are not finite"]

    return poison


def reseal_pictures(results: Path) -> None:
    """Let the pictures' seals vouch for the latents as they are, and the features for the seals."""
    for path in sorted((results / "evaluation" / "images").glob("*/*.json")):
        seal, folder = read_file_seal(path), path.with_suffix("")
        digests = {
            name: [hash_file((folder / name).with_suffix(end)) for end in (".png", ".safetensors")]
            for name in seal["sha256"]
        }
        changed = make_seal(seal["parameters"], seal["inputs"], digests)
        write_json(path, changed)
        features = results / "evaluation" / "features" / path.parent.name / f"{path.stem}.safetensors"
        arrays, about = read_unchecked(features)
        write_sealed_tensors(features, arrays, about | {"origin": identify_work(changed)})


def read_unchecked(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """`read_sealed_tensors`, whatever the values."""
    about = json.loads(read_metadata(path)["about"])
    return read_tensors(path), {key: value for key, value in about.items() if key != "sha256"}


def poison_weights(path: Path, value: float, rng: random.Random) -> list[str]:
    """A weight of one of the model's files."""
    tensors = read_tensors(path)
    name = choose_tensor(tensors, rng, ".weight")
    put(tensors[name], value, rng)
    write_tensors(path, tensors, read_metadata(path) or None)
    return [re.escape(path.name), re.escape(name)]


def poison_overflow(path: Path, value: float, rng: random.Random) -> list[str]:
    """A whole weight of the transformer, finite, but so large that nothing after it is."""
    tensors = read_tensors(path)
    names = [key for key in tensors if key.endswith(("fc1.weight", "q_proj.weight")) and key != UNUSED]
    name = rng.choice(sorted(names))
    tensors[name] = np.full(tensors[name].shape, HUGE, np.float32)
    write_tensors(path, tensors, read_metadata(path) or None)
    return [r"not finite|too large", r"step \d+|calibration point \d+"]


def poison_distilled(results: Path, value: float, rng: random.Random) -> list[str]:
    """The distilled model's scales, zero points, biases or step sizes."""
    return poison_file(results / "distilled.safetensors", value, rng)


def poison_distillation(results: Path, value: float, rng: random.Random) -> list[str]:
    """A rate of distillation that no scale survives."""
    amend(results / "params" / "distil.json", lambda content: content.update(distil_rate=1e38))
    return [r"distillation: iteration \d+", r"first in \w+"]


def poison_rate(results: Path, value: float, rng: random.Random) -> list[str]:
    """A learning rate that no weight survives."""
    for path in (results / "params" / "optimise_block").glob("*.json"):
        amend(path, lambda content: content.update(adaround_rate=1e38))
    return [r"mm_\d\d: iteration \d+", r"first in mm_\d\d\.\w+"]


MODEL = Path("taqmlx/models/embedded_model")
# Nothing comes after the text of the last block, so what its queries find is thrown away.
UNUSED = "multimodal_transformer_blocks.4.text_transformer_block.attn.q_proj.weight"
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


def detach(folder: Path) -> None:
    """Make the files of a folder of hard links files of their own."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
