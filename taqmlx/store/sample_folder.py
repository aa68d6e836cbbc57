"""Check a folder of samples in the original layout before it is imported."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from taqmlx.planning import plan
from taqmlx.planning.stages import CollectShard
from taqmlx.store.errors import UserError
from taqmlx.store.manifest import Manifest
from taqmlx.store.original_layout import Sample, name_latents, name_sample, read_latents, read_sample

LEVEL_TOLERANCE = 1e-3  # relative, for a sigma or a timestep: fp16 holds 1000 to 5e-4
LATENT_TOLERANCE = 1e-3  # absolute, for final latents: they are of order one, and some programs stored them in fp16


class Fault(NamedTuple):
    """One fault: `missing`, `damaged`, `wrong` or `foreign`, and a line that describes it."""

    kind: str
    line: str


class Expected(NamedTuple):
    """Expected content of a folder: image numbers, sigmas (steps + 1,), latent_shape (h, w, c)."""

    images: Sequence[int]
    sigmas: np.ndarray
    latent_shape: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Number of Euler steps; an image has one sample more."""
        return len(self.sigmas) - 1


def find_manifest_faults(manifest: Manifest, parameters: CollectShard) -> Iterator[Fault]:
    """Yield the differences between a manifest and the parameters of its trajectories."""
    count, prompts = parameters.trajectories, parameters.prompts
    for key, value in (("num_steps", parameters.steps), ("cfg_scale", parameters.cfg_scale)):
        if manifest[key] != value:
            yield Fault("wrong", f"manifest.json: {key} is {manifest[key]}, the configuration's is {value}")
    numbers = Counter(image["image_id"] for image in manifest["images"])
    for number in sorted(number for number, times in numbers.items() if times > 1):
        yield Fault("wrong", f"manifest.json: image {number:04d} is listed {numbers[number]} times")
    for number in sorted(set(range(count)) - numbers.keys()):
        yield Fault("missing", f"manifest.json: image {number:04d} is not listed")
    for number in sorted(numbers.keys() - set(range(count))):
        yield Fault("foreign", f"manifest.json: image {number:04d} is beyond the configuration's {count} trajectories")
    for image in manifest["images"]:
        number = image["image_id"]
        wanted = {"prompt": prompts[number % len(prompts)], "seed": parameters.seed + number}
        wanted |= {"num_steps": parameters.steps, "cfg_weight": parameters.cfg_scale}
        if number < count and (difference := describe_difference(image, wanted)):
            yield Fault("wrong", f"manifest.json: image {number:04d}: {difference}")


def describe_difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Describe all differences between `found` and `wanted`; keys absent from `found` are ignored."""
    return ", ".join(
        f"{key} is {plan.shorten(found[key])}, the configuration's is {plan.shorten(value)}"
        for key, value in wanted.items()
        if key in found and found[key] != value
    )


def find_folder_faults(
    folder: Path, expected: Expected, process_out: Callable[[np.ndarray], np.ndarray]
) -> Iterator[Fault]:
    """Yield all faults of the samples in `folder`, and of the final latents if it has a folder of them.

    `process_out` maps latents from the sampler's space to the decoder's.
    """
    wanted = set()
    for image in expected.images:
        last = None
        for step in range(expected.steps + 1):
            path = name_sample(folder / "samples", image, step)
            wanted.add(path.name)
            fault, last = check_sample(path, image, step, expected)
            if fault:
                yield fault
        if (folder / "latents").is_dir():
            yield from check_latents(name_latents(folder / "latents", image), last, process_out)
    for path in sorted((folder / "samples").glob("[!.]*")):  # hidden files belong to the system
        if path.name not in wanted:
            yield Fault("foreign", f"{path} belongs to none of the images")


def check_sample(path: Path, image: int, step: int, expected: Expected) -> tuple[Fault | None, Sample | None]:
    """Return the fault of a sample or None, and the sample if it has no fault."""
    try:
        sample = read_sample(path)
    except UserError as error:
        return Fault("damaged" if path.exists() else "missing", str(error)), None
    reason = find_mistake(sample, image, step, expected)
    return (Fault("wrong", f"{path}: {reason}"), None) if reason else (None, sample)


def find_mistake(sample: Sample, image: int, step: int, expected: Expected) -> str:
    """Describe the first way in which a readable sample is not that of `image` and `step`; empty if there is none."""
    sigma = float(expected.sigmas[step])
    if sample.x.shape != expected.latent_shape:
        return f"x is {sample.x.shape}, the model's latents are {expected.latent_shape}"
    if count := int((~np.isfinite(sample.x)).sum()):
        return f"{count} of {sample.x.size} values of x are NaN or infinite"
    if np.abs(sample.x).max() > np.finfo(np.float16).max:
        return f"{np.abs(sample.x).max():g} in x is too large for float16"
    told = {"image_id": sample.image_id, "step_index": sample.step_index, "is_final": sample.is_final}
    for key, value in {"image_id": image, "step_index": step, "is_final": step == expected.steps}.items():
        if told[key] != value:
            return f"{key} is {told[key]}, its name says {value}"
    for key, found, level in (("sigma", sample.sigma, sigma), ("timestep", sample.timestep, 1000 * sigma)):
        if not abs(found - level) <= LEVEL_TOLERANCE * level:
            return f"{key} is {found:g}, the schedule of {expected.steps} steps has {level:g}"
    return ""


def check_latents(path: Path, last: Sample | None, process_out: Callable[[np.ndarray], np.ndarray]) -> Iterator[Fault]:
    """Yield a fault if the final latents at `path` are not those of the image's last sample."""
    try:
        latents = read_latents(path)
    except UserError as error:
        yield Fault("damaged" if path.exists() else "missing", str(error))
        return
    if last is None:
        return
    wanted = process_out(last.x)
    if latents.shape != wanted.shape or not np.abs(latents - wanted).max() <= LATENT_TOLERANCE:
        yield Fault("wrong", f"{path} does not match the last sample in the decoder's space")


def count_faults(faults: Sequence[Fault]) -> str:
    """Return, for example, `3 missing, 1 damaged`."""
    counts = Counter(fault.kind for fault in faults)
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())
