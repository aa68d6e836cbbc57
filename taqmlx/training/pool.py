"""Pool of training scenes: attribute rows and their pictures, as memory-mapped arrays."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from taqmlx.training.captions import FIELDS, sample_scene
from taqmlx.training.pictures import PICTURE_SIZE, draw_scene

SCENES, PICTURES = "scenes.npy", "pictures.npy"


def draw_example(seed: int, index: int, held_out: bool = False) -> tuple[dict[str, int], np.ndarray]:
    """Scene and picture (64, 64, 3) uint8 number `index` of a seed; even indices have one object, odd ones two."""
    rng = np.random.default_rng((seed, index))
    scene = sample_scene(rng, 1 + index % 2, held_out)
    return scene, draw_scene(rng, scene)


def create_pool(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Create empty arrays on disk: scenes (count, 10) int8 and pictures (count, 64, 64, 3) uint8."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (count, PICTURE_SIZE, PICTURE_SIZE, 3)
    scenes = np.lib.format.open_memmap(folder / SCENES, "w+", np.int8, (count, len(FIELDS)))
    return scenes, np.lib.format.open_memmap(folder / PICTURES, "w+", np.uint8, shape)


def open_pool(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Load the scenes into memory; map the pictures read-only."""
    scenes = np.load(folder / SCENES, allow_pickle=False)
    return scenes, np.load(folder / PICTURES, mmap_mode="r", allow_pickle=False)


def sample_pictures(pictures: np.ndarray, batch: int, generator: torch.Generator) -> tuple[Tensor, np.ndarray]:
    """Draw a batch of pictures in [-1, 1], (b, 3, 64, 64), with their indices."""
    indices = torch.randint(len(pictures), (batch,), generator=generator).numpy()
    return to_tensor(pictures[indices]), indices


def to_tensor(pictures: np.ndarray) -> Tensor:
    """Convert (n, 64, 64, 3) uint8 to (n, 3, 64, 64) in [-1, 1]."""
    return torch.tensor(np.asarray(pictures)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
