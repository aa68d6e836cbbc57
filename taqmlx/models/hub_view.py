"""Temporary offline Hub cache of links to chosen files, for DiffusionKit's tokenizers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import constants

from taqmlx.models.weight_files import Located

REVISION = "0" * 40


@contextmanager
def serve_files(files: Iterable[Located]) -> Iterator[None]:
    """Context in which the Hub's client finds these files, without a network, and no others.

    A job thus reads only files that were located and checked, and downloads nothing.
    """
    before = constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE
    with TemporaryDirectory(prefix="weights-") as folder:
        for located in files:
            link = find_snapshot(Path(folder), located.file.repo) / located.file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(located.place.resolve())
        constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = folder, True
        try:
            yield
        finally:
            constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = before


def find_snapshot(cache: Path, repo: str) -> Path:
    """Folder of a repository's files in a Hub cache; its branch `main` is set to point there."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(REVISION)
    return folder / "snapshots" / REVISION
