"""FID and KID by torchmetrics in fp64, and SSIM, on features and pictures that are already there."""

import warnings

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance, poly_kernel

from taqmlx.numerics.distribution import measure_paired
from taqmlx.store.errors import UserError

LARGEST_SUBSET, SUBSETS = 1000, 100
FEWEST = 4  # pictures: two halves of which can still be compared
PIXEL_RANGE = 255.0
SSIM_BATCH = 2  # pictures at a time: with more, allocating costs five times what computing does


class GivenFeatures(torch.nn.Module):
    """Stands where torchmetrics expects a network: the features pass as they are."""

    def __init__(self, count: int):
        super().__init__()
        self.num_features = count

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def choose_subset(*counts: int) -> int:
    """The size of KID's subsets: half the smaller set, at most 1,000. Raises UserError for too few pictures."""
    if min(counts) < FEWEST:
        raise UserError(f"{min(counts)} pictures are too few to compare sets of them; at least {FEWEST} are needed")
    return min(LARGEST_SUBSET, min(counts) // 2)


def compute_fid(found: np.ndarray, reference: np.ndarray) -> float:
    """FID of features (n, d) to those of the reference (m, d). Raises UserError for too few."""
    choose_subset(len(found), len(reference))
    metric = FrechetInceptionDistance(feature=GivenFeatures(found.shape[1]), normalize=True).set_dtype(torch.float64)
    feed(metric, found, reference)
    return float(metric.compute())


def compute_kid(found: np.ndarray, reference: np.ndarray, seed: int) -> float:
    """KID of features (n, d) to those of the reference (m, d), unbiased, over subsets drawn with `seed`."""
    size = choose_subset(len(found), len(reference))
    feature = GivenFeatures(found.shape[1])
    with warnings.catch_warnings():
        # It warns that it keeps all features, which are here already.
        warnings.simplefilter("ignore", UserWarning)
        metric = KernelInceptionDistance(feature=feature, subsets=SUBSETS, subset_size=size, normalize=True)
    feed(metric.set_dtype(torch.float64), found, reference)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return float(metric.compute()[0])


def compute_paired_kid(found: np.ndarray, reference: np.ndarray) -> float:
    """KID of features (n, d) to those of their partners (n, d), over all pairs but a picture's with its partner."""
    choose_subset(len(found))
    x, y = (torch.from_numpy(np.asarray(rows, np.float64)) for rows in (found, reference))
    kernels = tuple(poly_kernel(*pair).numpy() for pair in ((x, x), (y, y), (x, y)))
    ones = np.ones(len(found))
    return measure_paired(kernels, ones, ones)


def feed(metric: torch.nn.Module, found: np.ndarray, reference: np.ndarray) -> None:
    """Hand both sets of features to a metric, in fp64."""
    for rows, real in ((reference, True), (found, False)):
        metric.update(torch.from_numpy(np.asarray(rows, np.float64)), real=real)


def compute_ssim(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """SSIM of each picture (n, h, w, 3) uint8 to its reference, (n,) float64, the mean over its channels.

    In fp64, since flat areas lose four digits in fp32.
    """
    found = []
    for start in range(0, len(pictures), SSIM_BATCH):
        pair = [split_channels(part[start : start + SSIM_BATCH]) for part in (pictures, references)]
        rows = structural_similarity_index_measure(*pair, data_range=PIXEL_RANGE, reduction="none")  # (3 n,)
        found.append(rows.reshape(-1, 3).mean(1))
    return torch.cat(found).numpy()


def split_channels(pictures: np.ndarray) -> torch.Tensor:
    """Pictures (n, h, w, 3) uint8 as (3 n, 1, h, w) float64: fp64 convolutions of several channels are far slower."""
    channels = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
    return torch.from_numpy(channels).reshape(-1, 1, *pictures.shape[1:3]).double()
