"""The files of Stable Diffusion 3 Medium: their names on the Hub, where they are, and whether they are whole.

They come from the Hub's cache, from a local folder, or, the transformer and the autoencoder, from a local file.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache

from workflow_scripts.models.diffusionkit import load_model_io
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import hash_file
from workflow_scripts.store.safetensors_header import read_header

model_io = load_model_io()

CHECKPOINT_REPO, TEXT_REPO, T5_REPO = model_io._DEFAULT_MMDIT, model_io._DEFAULT_MODEL, "google/t5-v1_1-xxl"
CHECKPOINT_NAME = model_io._MMDIT[CHECKPOINT_REPO]["vae"]  # the transformer and the autoencoder, in one file
TEXT_NAMES = model_io._MODELS[TEXT_REPO]
T5_NAMES = ("config.json", "spiece.model", "tokenizer_config.json")
# A tensor of each part of the checkpoint that no other kind of file has.
LANDMARKS = (
    "model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight",
    "first_stage_model.decoder.conv_in.weight",
)
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class WeightFile:
    """A file by its repository and name on the Hub."""

    repo: str
    name: str

    @property
    def local_name(self) -> str:
        """Its name in a local folder, where the files of the T5 tokenizer have a folder of their own."""
        return f"{self.repo.split('/')[1]}/{self.name}" if self.repo == T5_REPO else self.name


CHECKPOINT = WeightFile(CHECKPOINT_REPO, CHECKPOINT_NAME)


def list_text_files(use_t5: bool) -> list[WeightFile]:
    """The files of the text encoders and their tokenizers."""
    files = [WeightFile(TEXT_REPO, name) for key, name in TEXT_NAMES.items() if use_t5 or key != "t5"]
    return files + [WeightFile(T5_REPO, name) for name in T5_NAMES if use_t5]


def locate_files(weights_from: str, files: Iterable[WeightFile]) -> dict[WeightFile, Path]:
    """Where the files are. Raises UserError, naming the command that helps, for the first that is missing."""
    places = {file: find_place(weights_from, file) for file in files}
    missing = [file for file, place in places.items() if place is None]
    if missing:
        repo = missing[0].repo
        names = " ".join(file.name for file in missing if file.repo == repo)
        raise UserError(describe_missing(weights_from, repo, names))
    return places


def find_place(weights_from: str, file: WeightFile) -> Path | None:
    """Where one file is, or None. Raises UserError if `weights_from` names nothing that could hold it."""
    source = Path(weights_from).expanduser()
    if weights_from != CHECKPOINT_REPO and not source.exists():
        raise UserError(
            f"weights_from: {weights_from} is no folder or file here, and of the Hub's repositories only"
            f" {CHECKPOINT_REPO} is known"
        )
    if source.is_dir() and weights_from != CHECKPOINT_REPO:
        place = source / file.local_name
        return place if place.is_file() else None
    if source.is_file() and file == CHECKPOINT:
        return source
    cached = try_to_load_from_cache(file.repo, file.name)
    return Path(cached) if isinstance(cached, str) else None


def describe_missing(weights_from: str, repo: str, names: str) -> str:
    """Two lines: which files of a repository are not there, and how to get them."""
    if Path(weights_from).expanduser().is_dir() and weights_from != CHECKPOINT_REPO:
        folder = Path(weights_from) / WeightFile(repo, "").local_name if repo == T5_REPO else Path(weights_from)
        return f"{folder} lacks {names} of {repo}; get them:\n  hf download {repo} {names} --local-dir {folder}"
    return f"{constants.HF_HUB_CACHE} lacks {names} of {repo}; get them:\n  hf download {repo} {names}"


def check_file(file: WeightFile, place: Path) -> None:
    """Raise UserError if a safetensors file is cut short, is none, or is not the checkpoint it should be."""
    if place.suffix != ".safetensors" and not file.name.endswith(".safetensors"):
        return
    names = read_header(place)
    if file == CHECKPOINT:
        lacking = [name for name in LANDMARKS if name not in names]
        if lacking:
            raise UserError(
                f"{place} is no checkpoint of Stable Diffusion 3 Medium: it has no {lacking[0]};\n"
                f"  get the right one: hf download {CHECKPOINT_REPO} {CHECKPOINT_NAME}"
            )


def digest_file(place: Path) -> str:
    """sha256 of a file; the Hub's cache has a large one under that name, and then nothing is read."""
    stored = place.resolve().name
    return stored if place.is_symlink() and SHA256.fullmatch(stored) else hash_file(place)
