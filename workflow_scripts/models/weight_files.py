"""The files of the released models: their names on the Hub, where they are, and whether they are whole.

They come from the Hub's cache, from a local folder, or, the transformer and whatever else its file holds, from a local
file.
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
LARGE_REPO, FLUX_REPO = "argmaxinc/mlx-stable-diffusion-3.5-large", "argmaxinc/mlx-FLUX.1-schnell"
TITLES = {
    CHECKPOINT_REPO: "Stable Diffusion 3 Medium",
    LARGE_REPO: "Stable Diffusion 3.5 Large",
    FLUX_REPO: "FLUX.1-schnell",
}
TEXT_NAMES = model_io._MODELS[TEXT_REPO]
T5_NAMES = ("config.json", "spiece.model", "tokenizer_config.json")
_SD3_BLOCK, _SD3_DECODER = "model.diffusion_model.joint_blocks.{}", "first_stage_model.decoder.conv_in.weight"
# Tensors of each file that no other kind of file has.
LANDMARKS = {
    "sd3_medium.safetensors": (f"{_SD3_BLOCK.format(23)}.context_block.attn.qkv.weight", _SD3_DECODER),
    "sd3.5_large.safetensors": (f"{_SD3_BLOCK.format(37)}.context_block.attn.ln_k.weight", _SD3_DECODER),
    "flux-schnell.safetensors": ("double_blocks.18.img_attn.qkv.weight", "single_blocks.37.linear1.weight"),
    "ae.safetensors": ("decoder.conv_in.weight",),
    TEXT_NAMES["clip_l"]: ("text_model.embeddings.token_embedding.weight", "text_projection.weight"),
    TEXT_NAMES["clip_g"]: ("text_model.embeddings.token_embedding.weight", "text_projection.weight"),
    TEXT_NAMES["t5"]: ("shared.weight", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"),
}
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


# By the model's repository.
TRANSFORMERS = {repo: WeightFile(repo, model_io._MMDIT[repo][repo]) for repo in TITLES}
AUTOENCODERS = {repo: WeightFile(repo, model_io._MMDIT[repo]["vae"]) for repo in TITLES}
CHECKPOINT = TRANSFORMERS[CHECKPOINT_REPO]  # with its autoencoder in it, as that of Stable Diffusion 3.5 has


def list_text_files(use_t5: bool, clip_models: Iterable[str] = ("clip_l", "clip_g")) -> list[WeightFile]:
    """The files of the text encoders and their tokenizers."""
    ends = {name[-2:] for name in clip_models}  # clip_l, clip_l_config, tokenizer_l_vocab, ... are of one model
    keys = [key for key in TEXT_NAMES if (key == "t5" and use_t5) or any(end in key for end in ends)]
    files = [WeightFile(TEXT_REPO, TEXT_NAMES[key]) for key in keys]
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


def is_folder(weights_from: str) -> bool:
    """Whether it names a local folder, and not a repository of the Hub or a file."""
    return weights_from not in TITLES and Path(weights_from).expanduser().is_dir()


def find_place(weights_from: str, file: WeightFile) -> Path | None:
    """Where one file is, or None. Raises UserError if `weights_from` names nothing that could hold it."""
    source = Path(weights_from).expanduser()
    if weights_from not in TITLES and not source.exists():
        raise UserError(
            f"weights_from: {weights_from} is no folder or file here, and of the Hub's repositories only"
            f" {', '.join(TITLES)} are known"
        )
    if is_folder(weights_from):
        place = source / file.local_name
        return place if place.is_file() else None
    if source.is_file() and file in TRANSFORMERS.values():
        return source
    cached = try_to_load_from_cache(file.repo, file.name)
    return Path(cached) if isinstance(cached, str) else None


def describe_missing(weights_from: str, repo: str, names: str) -> str:
    """Two lines: which files of a repository are not there, and how to get them."""
    if is_folder(weights_from):
        folder = Path(weights_from) / WeightFile(repo, "").local_name if repo == T5_REPO else Path(weights_from)
        return f"{folder} lacks {names} of {repo}; get them:\n  hf download {repo} {names} --local-dir {folder}"
    return f"{constants.HF_HUB_CACHE} lacks {names} of {repo}; get them:\n  hf download {repo} {names}"


def check_file(file: WeightFile, place: Path) -> None:
    """Raise UserError if a file of weights is cut short, is no safetensors file, or is of another model."""
    if file.name not in LANDMARKS:
        return
    names = read_header(place)
    if lacking := [name for name in LANDMARKS[file.name] if name not in names]:
        model = TITLES.get(file.repo, "these models")
        raise UserError(
            f"{place} is not the {file.name} of {model}, as it has no {lacking[0]};\n"
            f"  hf download {file.repo} {file.name}"
        )


def verify_file(place: Path) -> str:
    """sha256 of a file's bytes. Raises UserError if the Hub's cache has it under another one."""
    digest = hash_file(place)
    if digest != digest_file(place):
        raise UserError(f"{place} is damaged; delete {place.resolve()} and run again")
    return digest


def digest_file(place: Path) -> str:
    """sha256 of a file; the Hub's cache has a large one under that name, and then nothing is read."""
    stored = place.resolve().name
    return stored if place.is_symlink() and SHA256.fullmatch(stored) else hash_file(place)
