"""Generated pictures as one image: single, as a grid, or beside full precision with error measures."""

from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from taqmlx.numerics.quality import measure_psnr, measure_snr
from taqmlx.plots.picture_grid import draw_grid

GRID_COLUMNS = 4  # even, so that pairs stay side by side


def save(image: Image.Image, facts: dict[str, str], path: Path) -> None:
    """Write the image; a PNG file carries `facts` as text."""
    about = PngInfo()
    for key, value in facts.items():
        about.add_itxt(key, value)
    image.save(path, pnginfo=about)  # other formats ignore it


def compose(pictures: np.ndarray, prompts: list[str]) -> Image.Image:
    """A single image unchanged, several as a grid with their prompts."""
    if len(pictures) == 1:
        return Image.fromarray(pictures[0])
    return draw_grid(pictures, prompts, columns=min(GRID_COLUMNS, len(pictures)))


def compose_pairs(pictures: dict[str, np.ndarray], latents: dict[str, mx.array], prompts: list[str]) -> Image.Image:
    """A grid of full-precision images beside their quantized counterparts, with error measures."""
    (exact, name), captions = pictures, []
    for i, prompt in enumerate(prompts):
        row = slice(i, i + 1)
        measured = measure_twins({k: v[row] for k, v in pictures.items()}, {k: v[row] for k, v in latents.items()})
        captions += [f"{exact}\n{prompt}", "\n".join([name, *measured])]
    pairs = np.stack(list(pictures.values()), axis=1)  # (n, 2, h, w, 3)
    return draw_grid(pairs.reshape(-1, *pairs.shape[2:]), captions, columns=min(GRID_COLUMNS, 2 * len(prompts)))


def measure_twins(pictures: dict[str, np.ndarray], latents: dict[str, mx.array]) -> list[str]:
    """PSNR and latent SNR of the quantized images against full precision, over all of them."""
    (exact, quantized), (reference, found) = pictures.values(), map(np.array, latents.values())
    return [f"PSNR {measure_psnr(quantized, exact):.1f} dB", f"latent SNR {measure_snr(found, reference):.1f} dB"]


def summarize(out: Path, pictures: dict[str, np.ndarray], latents: dict[str, mx.array]) -> str:
    """One line: what was written and, for pairs, the error measures."""
    count = len(next(iter(pictures.values())))
    line = f"{count} picture{'s' * (count > 1)}, {' and '.join(pictures)}, in {out}"
    return f"{line}: {', '.join(measure_twins(pictures, latents))}" if len(pictures) > 1 else line
