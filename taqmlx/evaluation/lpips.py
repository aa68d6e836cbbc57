"""LPIPS with AlexNet (Zhang et al. 2018, arXiv 1801.03924).

The layer weights come with torchmetrics, those of the network from a local file in torchvision's layout.
"""

from pathlib import Path

import numpy as np
import torch
import torchmetrics
from torch import nn

from taqmlx.evaluation.weights import fill, read_state
from taqmlx.planning.evaluation_documents import FeatureSource

LAYER_WEIGHTS = Path(torchmetrics.__file__).parent / "functional/image/lpips_models/alex.pth"
TAPS = (1, 4, 7, 9, 11)  # indices of the ReLUs whose outputs are compared
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
BATCH, TINY = 64, 1e-10


class AlexNet(nn.Module):
    """Convolutional layers of AlexNet."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU()),
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Channel-wise unit vectors at every position of the tapped layers."""
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in TAPS:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + TINY))
        return found


class Lpips:
    """LPIPS distances, with the weight file of the configuration. Raises UserError if it is missing or differs."""

    def __init__(self, source: FeatureSource):
        self.network = fill("lpips", AlexNet(), read_state("lpips", source))
        layers = torch.load(LAYER_WEIGHTS, map_location="cpu", weights_only=True)
        self.weights = [layers[f"lin{index}.model.1.weight"] for index in range(len(TAPS))]
        self.about = {"network": "AlexNet", "weights_sha256": source["sha256"]}

    def __call__(self, pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
        """Distance between each picture (n, h, w, 3) uint8 and its reference, (n,) float64."""
        with torch.inference_mode():
            parts = zip(prepare(pictures).split(BATCH), prepare(references).split(BATCH), strict=True)
            return torch.cat([self.compare(*part) for part in parts]).double().numpy()

    def compare(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Weighted squared differences, averaged over positions and summed over layers, (n,)."""
        pairs = zip(self.network(x), self.network(y), self.weights, strict=True)
        return sum((weight * (a - b).square()).sum(1).mean((1, 2)) for a, b, weight in pairs)


def prepare(pictures: np.ndarray) -> torch.Tensor:
    """Normalise pictures (n, h, w, 3) uint8 to network input, (n, 3, h, w) float32."""
    x = torch.from_numpy(pictures.astype(np.float32) / 127.5 - 1)
    return ((x - torch.tensor(SHIFT)) / torch.tensor(SCALE)).permute(0, 3, 1, 2)
