"""A checkpoint of the true shape of Stable Diffusion 3 Medium with random weights, as a Hub cache: about 4.3 GB.

`python -m tools.benchmarks.real_checkpoint FOLDER` writes it. Names and layout are those of the published file, so that
DiffusionKit loads it. The text encoders beside it are those of the miniature; only their digests are read.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import taqmlx  # noqa: F401  before MLX, for its BLAS

import numpy as np  # isort: skip

from taqmlx.models.diffusionkit import load_model_io
from taqmlx.models.weight_files import CHECKPOINT
from taqmlx.store.files import hash_file
from taqmlx.store.tensors import stream_tensors
from tools.miniature import layout
from tools.miniature.cache import COMMIT, draw_weight, make_files, write_cache

LOADERS = load_model_io()  # with the sizes that it loads the files by
SIZES, AUTOENCODER = LOADERS._CONFIG[CHECKPOINT.repo], LOADERS.VAEDecoderConfig().block_out_channels


def list_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of the published file by name."""
    own = SIZES.hidden_size, SIZES.max_latent_resolution, SIZES.pooled_text_embed_dim
    transformer = layout.list_stable_diffusion(SIZES.depth_multimodal, SIZES.use_qk_norm, *own)
    return transformer | layout.list_autoencoder(tuple(AUTOENCODER))


def draw_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Iterator[np.ndarray]:
    """Random fp16 weights, one tensor at a time."""
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        yield draw_weight(rng, name, shape)


def write_checkpoint(folder: Path) -> None:
    """Write the cache to `folder`, unless it is there already."""
    link = find_link(folder)
    if link.exists():
        return
    write_cache(folder, {file: content for file, content in make_files().items() if file != CHECKPOINT})
    place = folder / "sd3.partial.safetensors"
    shapes = list_shapes()
    stream_tensors(place, shapes, np.float16, draw_tensors(shapes))
    blob = link.parents[2] / "blobs" / hash_file(place)
    for made in (link, blob):
        made.parent.mkdir(parents=True, exist_ok=True)
    place.replace(blob)
    link.symlink_to(Path("..", "..", "blobs", blob.name))


def find_link(folder: Path) -> Path:
    """The checkpoint in the cache `folder`."""
    return folder / f"models--{CHECKPOINT.repo.replace('/', '--')}" / "snapshots" / COMMIT / CHECKPOINT.name


if __name__ == "__main__":
    write_checkpoint(Path(sys.argv[1]))
