"""Download of model files missing from the Hub's cache: the only module that uses a network."""

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from taqmlx.models.weight_files import WeightFile
from taqmlx.store.errors import UserError

SPARE_BYTES = 1 << 30  # kept free on the disk


def download_files(files: Iterable[WeightFile]) -> None:
    """Download `files` into the Hub's cache. Raises UserError, naming the command to run, if that fails."""
    wanted = list(files)
    for file in wanted:
        try:
            if file == wanted[0]:
                check_disk(sum(hf_hub_download(each.repo, each.name, dry_run=True).file_size for each in wanted))
            hf_hub_download(file.repo, file.name)
        except OSError as error:
            raise UserError(explain_failure(file, error)) from error


def check_disk(needed: int) -> None:
    """Raise UserError if the disk of the Hub's cache has less than `needed` bytes free."""
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if needed + SPARE_BYTES > free:
        raise UserError(
            f"the weights need {(needed + SPARE_BYTES) / 1e9:.1f} GB, and {cache} has {free / 1e9:.1f} GB free;\n"
            "  make room, or name a folder on a larger disk: export HF_HUB_CACHE=FOLDER"
        )


def explain_failure(file: WeightFile, error: OSError) -> str:
    """Build a two-line message: the cause of the failure, and the command to run."""
    again = f"  hf download {file.repo} {file.name}"
    if isinstance(error, GatedRepoError):
        return f"{file.repo} is gated; accept its licence at https://huggingface.co/{file.repo}, then\n  hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return f"the Hub shows {file.repo} only after login; log in:\n  hf auth login"
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return f"{constants.HF_HUB_CACHE} lacks {file.name}, and the Hub is unreachable; try again later:\n{again}"
    if error.errno == errno.ENOSPC:
        return f"the disk of {constants.HF_HUB_CACHE} is full; make room, then\n{again}"
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    return f"{file.name} cannot be downloaded ({reason}); try\n{again}"
