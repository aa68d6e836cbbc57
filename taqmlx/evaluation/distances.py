"""FID and KID by torchmetrics in fp64, and SSIM, from existing features and pictures."""

import warnings

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance, poly_kernel

from taqmlx.numerics.distribution import measure_paired
from taqmlx.store.errors import UserError

LARGEST_SUBSET, SUBSETS = 1000, 100
FEWEST = 4  # pictures: each half must still allow a comparison
PIXEL_RANGE = 255.0
SSIM_BATCH = 2  # pictures at a time: with more, memory allocation takes five times as long as computing


class GivenFeatures(torch.nn.Module):
    """Stand-in for the network expected by torchmetrics: returns the features unchanged."""

    def __init__(self, count: int):
        super().__init__()
        self.num_features = count

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def choose_subset(*counts: int) -> int:
    """Subset size of KID: half the smaller set, at most 1,000. Raises UserError for too few pictures."""
    if min(counts) < FEWEST:
        raise UserError(f"{min(counts)} pictures are too few to compare sets of them; at least {FEWEST} are needed")
    return min(LARGEST_SUBSET, min(counts) // 2)


def compute_fid(found: np.ndarray, reference: np.ndarray) -> float:
    """FID between features (n, d) and those of the reference (m, d). Raises UserError for too few."""
    choose_subset(len(found), len(reference))
    metric = FrechetInceptionDistance(feature=GivenFeatures(found.shape[1]), normalize=True).set_dtype(torch.float64)
    feed(metric, found, reference)
    return float(metric.compute())


def compute_kid(found: np.ndarray, reference: np.ndarray, seed: int) -> float:
    """KID between features (n, d) and those of the reference (m, d), unbiased, over subsets drawn with `seed`."""
    size = choose_subset(len(found), len(reference))
    feature = GivenFeatures(found.shape[1])
    with warnings.catch_warnings():
        # The metric warns that it stores all features, which are in memory anyway.
        warnings.simplefilter("ignore", UserWarning)
        metric = KernelInceptionDistance(feature=feature, subsets=SUBSETS, subset_size=size, normalize=True)
    feed(metric.set_dtype(torch.float64), found, reference)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return float(metric.compute()[0])


def compute_paired_kid(found: np.ndarray, reference: np.ndarray) -> float:
    """KID between features (n, d) and those of their partners (n, d), over all pairs except those of partners."""
    choose_subset(len(found))
    x, y = (torch.from_numpy(np.asarray(rows, np.float64)) for rows in (found, reference))
    kernels = tuple(poly_kernel(*pair).numpy() for pair in ((x, x), (y, y), (x, y)))
    ones = np.ones(len(found))
    return measure_paired(kernels, ones, ones)


def feed(metric: torch.nn.Module, found: np.ndarray, reference: np.ndarray) -> None:
    """Update a metric with both feature sets, in fp64."""
    for rows, real in ((reference, True), (found, False)):
        metric.update(torch.from_numpy(np.asarray(rows, np.float64)), real=real)


def compute_ssim(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """SSIM between each picture (n, h, w, 3) uint8 and its reference, (n,) float64, averaged over channels.

    Computed in fp64: flat areas lose four digits in fp32.
    """
    found = []
    for start in range(0, len(pictures), SSIM_BATCH):
        pair = [split_channels(part[start : start + SSIM_BATCH]) for part in (pictures, references)]
        rows = structural_similarity_index_measure(*pair, data_range=PIXEL_RANGE, reduction="none")  # (3 n,)
        found.append(rows.reshape(-1, 3).mean(1))
    return torch.cat(found).numpy()


def split_channels(pictures: np.ndarray) -> torch.Tensor:
    """Reshape pictures (n, h, w, 3) uint8 to (3 n, 1, h, w) float64: multi-channel fp64 convolutions are far slower."""
    channels = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
    return torch.from_numpy(channels).reshape(-1, 1, *pictures.shape[1:3]).double()
