"""Local PyTorch weight files, given by path and sha256; nothing is downloaded."""

import zipfile
from pathlib import Path

import torch

from taqmlx.planning.evaluation_documents import FeatureSource
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file

NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_state(what: str, source: FeatureSource) -> dict[str, torch.Tensor]:
    """Read the tensors of the file `source["path"]`. Raises UserError, naming `what`, unless its sha256 matches."""
    path = Path(source["path"])
    if not path.is_file():
        raise UserError(f"{what}: {path} is missing; put the weights there (nothing is downloaded), or set it to null")
    if (found := hash_file(path)) != source["sha256"]:
        raise UserError(f"{what}: {path} has the sha256 {found}, not {source['sha256']}; it is another file")
    try:
        reject_compressed(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{what}: {path} holds no PyTorch weights ({type(error).__name__})") from None


def reject_compressed(path: Path) -> None:
    """Raise ValueError for an archive that is larger in memory than on disk: PyTorch writes none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed")


def fill(what: str, module: torch.nn.Module, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Load these weights into `module` for inference.

    Raises UserError unless every weight is present, has the right shape and a floating-point dtype: integer codes would
    be read as numbers.
    """
    try:
        missing, _ = module.load_state_dict(state, strict=False)
    except (RuntimeError, TypeError, AttributeError):
        missing = ["of another shape, or no tensors"]
    # Batch counters: not every file has them, and inference does not use them.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing:
        raise UserError(f"{what}: the file lacks the weights of the network it is for ({missing[0]})")
    for name, value in module.state_dict().items():
        if value.is_floating_point() and state[name].dtype not in NUMBERS:
            raise UserError(f"{what}: the file stores {name} as {state[name].dtype}; use weights in fp16 or fp32")
    return module.eval().requires_grad_(False)
