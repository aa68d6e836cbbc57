"""Checks of the configured paths, made before any job. Standard library only."""

import os
from pathlib import Path

from taqmlx.planning.documents import Config
from taqmlx.planning.plain_files import PICTURES
from taqmlx.planning.plan import MODEL_KEYS, WEIGHTS_FROM

FEWEST_PICTURES = 4  # the minimum to compare two halves
# Hugging Face Hub repository by model.
REPOSITORIES = {
    "sd3-medium": "argmaxinc/mlx-stable-diffusion-3-medium",
    "sd3.5-large": "argmaxinc/mlx-stable-diffusion-3.5-large",
    "flux-schnell": "argmaxinc/mlx-FLUX.1-schnell",
}
# Results folders that planning reads or that every job writes to.
RESULT_FOLDERS = {"params", "logs", "benchmarks", "scratch", "trajectories.zarr", "adaround", "quantized"}


def find_obstacle(path: Path) -> str:
    """The reason why `path` cannot be read, in words; empty if it is readable or does not exist."""
    place = find_nearest(path)
    if not os.path.exists(place):  # noqa: PTH110 Path.exists raises for a link into an unreadable folder
        return f"{place} is a link to {place.readlink()}, which cannot be reached"
    if place != path and not place.is_dir():
        return f"{place} is not a folder"
    if not os.access(place, os.R_OK | os.X_OK if place.is_dir() else os.R_OK):
        return f"{place} is not readable"
    return ""


def find_nearest(path: Path) -> Path:
    """`path` or its nearest existing parent; a symbolic link counts as existing, wherever it points."""
    return next(part for part in (path, *path.parents) if os.path.lexists(part))


def reject_unusable_paths(config: Config) -> None:
    """Raise ValueError, in one line, for a configured path that no job could use.

    Prompt files are checked where they are read.
    """
    reject_results(Path(config["results_dir"]))
    for key in ("inception", "lpips"):
        if config[key] is not None:
            reject_absent(key, Path(config[key]["path"]), is_folder=False)
    for key in ("clip", "reference_pictures"):
        if config[key] is not None:
            reject_absent(key, Path(config[key]), is_folder=True)
    reject_few_pictures(config["reference_pictures"])
    if config[WEIGHTS_FROM] is not None and WEIGHTS_FROM in MODEL_KEYS[config["model"]]:
        reject_weights(config[WEIGHTS_FROM], config["model"])


def reject_results(results: Path) -> None:
    """Raise ValueError unless `results` is a readable and writable folder, or can be created."""
    if obstacle := find_obstacle(results):
        raise ValueError(f"results_dir: {obstacle}; fix that, or choose another results_dir")
    place = find_nearest(results)
    if not place.is_dir():
        raise ValueError(f"results_dir: {place} is not a folder; choose another results_dir, or move that away")
    if not os.access(place, os.W_OK):
        raise ValueError(f"results_dir: {place} is not writable; change its permissions, or choose another")
    if place != results:
        return
    for path in sorted(path for path in results.iterdir() if not path.name.startswith(".")):
        obstacle = find_obstacle(path)
        if not obstacle and path.name in RESULT_FOLDERS and not path.is_dir():
            obstacle = f"{path} is not a folder"
        if obstacle:
            raise ValueError(f"results_dir: {obstacle}; fix that, or move it away")


def reject_absent(key: str, path: Path, is_folder: bool) -> None:
    """Raise ValueError unless `path` is a readable file, or folder if `is_folder`."""
    if obstacle := find_obstacle(path):
        raise ValueError(f"{key}: {obstacle}; fix that, or name another")
    wanted = "folder" if is_folder else "file"
    if not (path.is_dir() if is_folder else path.is_file()):
        raise ValueError(f"{key}: {path} is not a {wanted}; name an existing one, or set {key} to null")


def reject_few_pictures(folder: str | None) -> None:
    """Raise ValueError for a folder with fewer than FEWEST_PICTURES images."""
    if folder is None:
        return
    count = sum(path.suffix.lower() in PICTURES for path in Path(folder).iterdir())
    if count < FEWEST_PICTURES:
        raise ValueError(
            f"reference_pictures: {folder} has {count} pictures ({', '.join(PICTURES)}), but at least"
            f" {FEWEST_PICTURES} are compared; name a folder with more"
        )


def reject_weights(weights_from: str, model: str) -> None:
    """Raise ValueError for missing local weights, unless `weights_from` is the model's repository on the Hub."""
    repo = REPOSITORIES[model]
    path = Path(os.path.expanduser(weights_from))  # noqa: PTH111  Path.expanduser raises for an unknown user
    if weights_from == repo:
        return
    if weights_from in REPOSITORIES.values():
        raise ValueError(f"weights_from: {weights_from} has other weights than {model}'s; set it to {repo}")
    if obstacle := find_obstacle(path):
        raise ValueError(f"weights_from: {obstacle}; fix that, or name another")
    if not path.exists():
        raise ValueError(f"weights_from: there is no {path}; name a folder, a file, or the repository {repo}")
