"""PNG pictures with their origin in text chunks, and their final latents beside them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from taqmlx.planning.plain_files import PICTURES, read_plain
from taqmlx.store.errors import UserError, report_damage
from taqmlx.store.files import write_atomically
from taqmlx.store.tensors import read_sealed_tensors, write_sealed_tensors

READABLE = PICTURES
FORMATS = ("PNG", "JPEG", "WEBP")  # no other format is tried, whatever the file name: some run programs
LARGEST_PICTURE = 1 << 26  # pixels


def name_picture(folder: Path, seed: int) -> Path:
    """Path of the picture of a seed."""
    return folder / f"{seed:010d}.png"


def write_picture(path: Path, picture: np.ndarray, latents: np.ndarray, about: dict[str, Any]) -> None:
    """Write latents (h, w, c) beside `path`, then the picture (h, w, 3) uint8 with `about` in text chunks."""
    write_sealed_tensors(path.with_suffix(".safetensors"), {"latents": latents}, about)
    chunks = PngImagePlugin.PngInfo()
    for key, value in encode_text(about).items():
        chunks.add_itxt(key, value)
    write_atomically(path, lambda partial: Image.fromarray(picture).save(partial, pnginfo=chunks))


def encode_text(about: dict[str, Any]) -> dict[str, str]:
    """Keep text as it is; encode other values as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def is_drawn(path: Path, about: dict[str, Any]) -> bool:
    """True if `path` and its latents are complete and their metadata equals `about`."""
    try:
        found = dict(getattr(open_picture(path), "text", {}))
        _, latents_about = read_sealed_tensors(path.with_suffix(".safetensors"))
    except UserError:
        return False
    return found == encode_text(about) and latents_about == about


def read_latents(path: Path) -> np.ndarray:
    """Read the final latents (h, w, c) of the picture at `path`. Raises UserError if they are missing or damaged."""
    place = path.with_suffix(".safetensors")
    with report_damage(place):
        return read_sealed_tensors(place)[0]["latents"]


def open_picture(path: Path) -> Image.Image:
    """Load a picture and verify its checksums, which Pillow skips for the pixels of a PNG file.

    Raises UserError, naming the file, if it is missing, damaged or too large.
    """
    try:
        content = io.BytesIO(read_plain(path))
        with Image.open(content, formats=FORMATS) as image:
            if image.width * image.height > LARGEST_PICTURE:
                raise ValueError(f"{image.width} x {image.height} pixels, and at most {LARGEST_PICTURE} are read")
            image.verify()
        with Image.open(content, formats=FORMATS) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise UserError(f"{path} is missing; delete what was made with it and run again") from None
    except Exception as error:  # Pillow's format readers raise many types
        raise UserError(f"{path} is not a readable picture ({str(error)[:200]}); delete it and run again") from None


def read_picture(path: Path) -> Image.Image:
    """Read the picture in RGB. Raises UserError, naming the file, if it is missing or damaged."""
    return open_picture(path).convert("RGB")


def list_pictures(folder: Path) -> list[Path]:
    """Pictures in a folder, by name. Raises UserError if there are none."""
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in READABLE)
    if not found:
        raise UserError(f"{folder} has no picture ({', '.join(READABLE)}); name a folder with pictures")
    return found


def stack_pictures(images: Sequence[Image.Image], size: int) -> np.ndarray:
    """Stack RGB pictures as (n, size, size, 3) uint8; other sizes are resized (Pillow, bicubic, antialiased)."""
    fitting = [
        image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC)
        for image in images
    ]
    return np.stack([np.asarray(image) for image in fitting])
