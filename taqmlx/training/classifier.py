"""Attribute classifier in torch for training, with the names of `models.classifier.Classifier`, channels first."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from taqmlx.models.classifier import FEATURES, GRID, GROUPS, HEADS, WIDTHS
from taqmlx.training.captions import ABSENT
from taqmlx.training.recipe import PICTURE_NOISE


class Classifier(nn.Module):
    """Map pictures in [-1, 1], (b, 3, 64, 64), to the concatenated logits of all heads."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in zip(inputs, WIDTHS, strict=True)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for width in WIDTHS)
        self.embed = nn.Linear(GRID * GRID * WIDTHS[-1], FEATURES)
        self.heads = nn.Linear(FEATURES, sum(HEADS.values()))

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.relu(norm(convolution(x)))
        x = x.permute(0, 2, 3, 1).flatten(1)  # (b, c, 4, 4) -> (b, 16 c), in the pixel order of the MLX version
        return self.heads(functional.relu(self.embed(x)))


def measure_classifier_loss(logits: Tensor, scenes: Tensor) -> Tensor:
    """Cross-entropy summed over heads and applicable pictures, per picture; scenes (b, heads) int."""
    parts = logits.float().split(list(HEADS.values()), dim=1)
    losses = [
        functional.cross_entropy(part, scenes[:, i], ignore_index=ABSENT, reduction="sum")
        for i, part in enumerate(parts)
    ]
    return torch.stack(losses).sum() / len(scenes)


def soften_pictures(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise to pictures and blur half of them, so that the classifier does not depend on perfect edges."""
    noise = PICTURE_NOISE * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    blurred = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(len(pictures), 1, 1, 1, generator=generator).mul(2).sub(1).clamp(min=0)
    return pictures.lerp(blurred, share) + noise * torch.randn(pictures.shape, generator=generator)
