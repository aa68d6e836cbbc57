"""Original dataset layout, readable by other programs: a folder of small NumPy files and one PNG file per image.

`samples/{image}_{step}.npz` holds one state of one trajectory, `latents/{image}.npy` the final latents in the decoder's
space, `images/{image}.png` the picture, `manifest.json` their description. An image has the number of its trajectory.
The samples of an image are the states before each step, then the final state at sigma 0.
"""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from taqmlx.planning.plain_files import open_plain
from taqmlx.store.errors import UNFIT, UserError
from taqmlx.store.trajectories import Trajectory

# Entries of a sample besides `x` (1, h, w, c) float32; all are scalars. Earlier programs wrote the timestep in the
# precision of their model, so any floating type is read.
SCALARS = {"timestep": "float32", "sigma": "float32", "step_index": "int32", "image_id": "int32", "is_final": "bool"}
DAMAGE = (*UNFIT, OSError, EOFError, RuntimeError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)
LARGEST_ARRAY = 1 << 26  # largest uncompressed size in bytes of one array


class Sample(NamedTuple):
    """x (h, w, c) float32: latents in the sampler's space at `sigma`; the other fields give trajectory and step."""

    x: np.ndarray
    timestep: float
    sigma: float
    step_index: int
    image_id: int
    is_final: bool


def name_sample(folder: Path, image: int, step: int) -> Path:
    """Path of a sample in the folder of samples."""
    return folder / f"{image:04d}_{step:03d}.npz"


def name_latents(folder: Path, image: int) -> Path:
    """Path of an image's final latents in the folder of latents."""
    return folder / f"{image:04d}.npy"


def name_image(folder: Path, image: int) -> Path:
    """Path of a picture in the folder of images."""
    return folder / f"{image:04d}.png"


def list_samples(trajectory: Trajectory, ts: np.ndarray, sigmas: np.ndarray) -> Iterator[Sample]:
    """Samples of a trajectory: its states, then its final latents at sigma 0. ts (steps,), sigmas (steps + 1,)."""
    timesteps = np.append(ts, np.float32(0))
    for step, x in enumerate([*trajectory.states, trajectory.latents]):
        yield Sample(x.astype(np.float32), timesteps[step], sigmas[step], step, trajectory.number, step == len(ts))


def write_sample(path: Path, sample: Sample) -> None:
    """Write one sample; equal samples give equal bytes."""
    values = sample._asdict()
    scalars = {key: np.array(values[key], dtype=dtype) for key, dtype in SCALARS.items()}
    content = io.BytesIO()  # NumPy does not report a failure to write a file's last bytes
    # NumPy's type hints match the `scalars` to its only other keyword, allow_pickle.
    np.savez_compressed(content, x=sample.x[None].astype(np.float32), **scalars)  # type: ignore[arg-type]
    path.write_bytes(content.getvalue())


def read_sample(path: Path) -> Sample:
    """Read the sample at `path`. Raises UserError, naming the file, if it is missing, damaged or not a sample."""
    try:
        with open_plain(path) as opened, zipfile.ZipFile(opened) as archive:
            arrays = {key: read_member(archive, key) for key in Sample._fields if f"{key}.npy" in archive.namelist()}
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except DAMAGE as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    if absent := [key for key in Sample._fields if key not in arrays]:
        raise UserError(f"{path} has no {' and no '.join(absent)}")
    for key, array in arrays.items():
        wanted = np.dtype(SCALARS.get(key, "float32"))
        if array.dtype.kind != wanted.kind or (array.size != 1 and key != "x"):
            raise UserError(f"{path}: {key} is {array.dtype} {array.shape}, not one {wanted}")
    x = arrays.pop("x")
    if x.dtype != np.float32 or x.ndim != 4 or len(x) != 1:
        raise UserError(f"{path}: x is {x.dtype} {x.shape}, not float32 (1, height, width, channels)")
    return Sample(x[0], **{key: array.item() for key, array in arrays.items()})


def read_member(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """Read the array `key` of an `.npz` archive. Raises ValueError if it is too large."""
    with archive.open(f"{key}.npy") as file:
        return read_array(file, archive.getinfo(f"{key}.npy").file_size)


def read_array(file: IO[bytes], size: int) -> np.ndarray:
    """Read the array in a `.npy` file of `size` bytes, without unpickling.

    Raises ValueError if it is too large, or if its size differs from its header: NumPy allocates what the header says.
    """
    if size > LARGEST_ARRAY:
        raise ValueError(f"an array of {size} bytes, and at most {LARGEST_ARRAY} are read")
    content = io.BytesIO(file.read(size))
    version = np.lib.format.read_magic(content)
    if version != (1, 0):
        raise ValueError(f"a .npy file of version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(content)
    if math.prod(shape) * dtype.itemsize != size - content.tell():
        raise ValueError(f"not the bytes of {dtype} {shape}")
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)


def write_latents(path: Path, latents: np.ndarray) -> None:
    """Write an image's final latents (h, w, c) in the decoder's space, as (1, h, w, c) float32."""
    content = io.BytesIO()
    np.save(content, latents[None].astype(np.float32))
    path.write_bytes(content.getvalue())


def read_latents(path: Path) -> np.ndarray:
    """Read the final latents (h, w, c) float32. Raises UserError if they are missing, damaged or of another shape."""
    try:
        with open_plain(path) as file:
            latents = read_array(file, path.stat().st_size)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except DAMAGE as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    if latents.dtype != np.float32 or latents.ndim != 4 or len(latents) != 1:
        raise UserError(f"{path} is {latents.dtype} {latents.shape}, not float32 (1, height, width, channels)")
    final: np.ndarray = latents[0]
    return final
