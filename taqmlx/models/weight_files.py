"""Files of the released models: Hub names, local paths, and download commands.

They come from the Hub's cache, from a local folder or, for the transformer and its autoencoder, from a local file. A
local weight file may be stored in shards, which are listed in an index beside them.
"""

import hashlib
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache

from taqmlx.models.diffusionkit import load_model_io
from taqmlx.models.layouts import describe_folder
from taqmlx.planning.plain_files import read_plain, read_plain_json
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file

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
INDEX = ".index.json"
SHA256, GIT_SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class WeightFile:
    """Repository and name of a file on the Hub."""

    repo: str
    name: str

    @property
    def local_name(self) -> str:
        """Name in a local folder; the files of the T5 tokenizer have a folder of their own."""
        return f"{self.repo.split('/')[1]}/{self.name}" if self.repo == T5_REPO else self.name


# By model repository.
TRANSFORMERS = {repo: WeightFile(repo, model_io._MMDIT[repo][repo]) for repo in TITLES}
AUTOENCODERS = {repo: WeightFile(repo, model_io._MMDIT[repo]["vae"]) for repo in TITLES}
CHECKPOINT = TRANSFORMERS[CHECKPOINT_REPO]  # includes its autoencoder, as does that of Stable Diffusion 3.5


@dataclass(frozen=True)
class Located:
    """A file located in `weights_from`: `place` is the file, or the index of its shards."""

    file: WeightFile
    place: Path
    weights_from: str

    def list_shards(self) -> dict[str, Path]:
        """Files that contain its tensors, by their names in a local folder. Raises UserError."""
        if not self.place.name.endswith(INDEX):
            return {self.file.local_name: self.place}
        folder = Path(self.file.local_name).parent
        return {str(folder / shard.name): shard for shard in list_shards(self.place)}

    def list_files(self) -> dict[str, Path]:
        """All its files: shards and, if there is one, their index."""
        index = {self.file.local_name + INDEX: self.place} if self.place.name.endswith(INDEX) else {}
        return index | self.list_shards()

    @property
    def download(self) -> str:
        """Command that downloads the published file in place of this one; a local file is left alone and not named."""
        if is_own_file(self.weights_from, self.file):
            return f"hf download {self.file.repo} {self.file.name}  # and weights_from: {self.file.repo}"
        # Without the option, an unreachable Hub leaves the existing file in place and the command succeeds.
        return f"{format_download(self.weights_from, self.file.repo, self.file.name)} --force-download"

    def explain_renewal(self, path: Path) -> str:
        """Remedy for a damaged file `path`: a linked file must be removed together with its link."""
        remove = " ".join(["rm", *(shlex.quote(str(each)) for each in dict.fromkeys([path.resolve(), path]))])
        if is_own_file(self.weights_from, self.file) or path != self.place:
            return f"delete it and put a whole copy at {path}:\n  {remove}"
        again = format_download(self.weights_from, self.file.repo, self.file.name)
        return f"delete it and get it again:\n  {remove} && {again}"


def list_text_files(use_t5: bool, clip_models: Iterable[str] = ("clip_l", "clip_g")) -> list[WeightFile]:
    """Files of the text encoders and their tokenizers."""
    ends = {name[-2:] for name in clip_models}  # clip_l, clip_l_config, tokenizer_l_vocab, ... belong to one model
    keys = [key for key in TEXT_NAMES if (key == "t5" and use_t5) or any(end in key for end in ends)]
    files = [WeightFile(TEXT_REPO, TEXT_NAMES[key]) for key in keys]
    return files + [WeightFile(T5_REPO, name) for name in T5_NAMES if use_t5]


def locate_files(weights_from: str, files: Iterable[WeightFile]) -> dict[WeightFile, Located]:
    """Locate the files. Raises UserError, naming the download command, if any is missing."""
    places = {file: find_file(weights_from, file) for file in files}
    missing = [file for file, place in places.items() if place is None]
    if missing:
        repo = missing[0].repo
        names = " ".join(shlex.quote(file.name) for file in missing if file.repo == repo)
        raise UserError(describe_missing(weights_from, repo, names))
    return {file: Located(file, place, weights_from) for file, place in places.items()}


def is_folder(weights_from: str) -> bool:
    """True if `weights_from` is a local folder rather than a Hub repository or a file."""
    return weights_from not in TITLES and Path(weights_from).expanduser().is_dir()


def is_own_file(weights_from: str, file: WeightFile) -> bool:
    """True if `weights_from` is a local file that stands for `file`."""
    return weights_from not in TITLES and Path(weights_from).expanduser().is_file() and file in TRANSFORMERS.values()


def find_file(weights_from: str, file: WeightFile) -> Path | None:
    """Path of one file, or of the index of its shards; None if it is absent.

    Raises UserError if `weights_from` is neither a known repository nor an existing path.
    """
    source = Path(weights_from).expanduser()
    if weights_from not in TITLES and not source.exists():
        raise UserError(
            f"weights_from: {weights_from} is not a local folder or file; the known Hub repositories are"
            f" {', '.join(TITLES)}"
        )
    if is_folder(weights_from):
        places = source / file.local_name, source / (file.local_name + INDEX)
        return next((place for place in places if place.is_file()), None)
    if is_own_file(weights_from, file):
        return source
    cached = try_to_load_from_cache(file.repo, file.name)
    return Path(cached) if isinstance(cached, str) else None


def format_download(weights_from: str, repo: str, names: str) -> str:
    """Command that downloads files of a repository to the location that `weights_from` refers to."""
    if not is_folder(weights_from):
        return f"hf download {repo} {names}"
    folder = Path(weights_from).expanduser() / (WeightFile(repo, "").local_name if repo == T5_REPO else "")
    return f"hf download {repo} {names} --local-dir {shlex.quote(str(folder))}"


def describe_missing(weights_from: str, repo: str, names: str) -> str:
    """Build a two-line message: the missing files of a repository, and the download command."""
    place, folder = constants.HF_HUB_CACHE, Path(weights_from).expanduser()
    if is_folder(weights_from):
        place = folder / WeightFile(repo, "").local_name if repo == T5_REPO else folder
        if layout := describe_folder(folder):
            place = f"{folder} is {layout}; it"
    return f"{place} lacks {names} of {repo}; get them:\n  {format_download(weights_from, repo, names)}"


def list_shards(index: Path) -> list[Path]:
    """Read the shards listed in a checkpoint's index. Raises UserError if it is damaged or a shard is missing."""
    try:
        names = sorted(set(read_plain_json(index)["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("a shard lies beside its index")
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        raise UserError(f"{index} is not an index of shards ({error}); name the index of a whole checkpoint") from None
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise UserError(
            f"{index.parent} lacks {missing[0]}, which {index.name} lists; put all {len(names)} shards there"
        )
    return [index.parent / name for name in names]


def verify_file(located: Located) -> dict[str, str]:
    """sha256 of each underlying file, by name. Raises UserError if the Hub's cache stores one under another digest."""
    digests = {}
    for name, path in located.list_files().items():
        digests[name], stored = hash_file(path), path.resolve().name
        if not path.is_symlink():
            continue
        if SHA256.fullmatch(stored) and stored != digests[name]:
            raise UserError(f"{path} is damaged; {located.explain_renewal(path)}")
        if GIT_SHA1.fullmatch(stored) and stored != hash_as_git(path):
            raise UserError(f"{path} is damaged; {located.explain_renewal(path)}")
    return digests


def hash_as_git(path: Path) -> str:
    """sha1 of a small file as git computes it, which is its name in the Hub's cache."""
    content = read_plain(path)
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def digest_files(located: Located) -> dict[str, str]:
    """sha256 of each underlying file, by name; a file stored under its sha256 in the Hub's cache is not read."""
    return {name: digest_file(path) for name, path in located.list_files().items()}


def digest_file(path: Path) -> str:
    """sha256 of a file; the Hub's cache names large files by their sha256, so those are not read."""
    stored = path.resolve().name
    return stored if path.is_symlink() and SHA256.fullmatch(stored) else hash_file(path)
