"""Muon: momentum with orthogonalised updates, for matrices and convolution kernels.

Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024); the step is scaled to the size of an
AdamW step (Liu et al., Muon is scalable for LLM training, 2025), so both share one learning rate.
"""

from typing import Any

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)  # Newton-Schulz coefficients, five rounds
ADAMW_STEP = 0.2  # RMS of a typical AdamW step, in units of the learning rate


class Muon(torch.optim.Optimizer):
    """`params` have two or more axes; all but the first are flattened."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        direction = parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
        scale = ADAMW_STEP * max(direction.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(orthogonalise(direction).view_as(parameter), alpha=group["lr"] * scale)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Approximate orthogonalisation (singular values 0.7 to 1.2) by five Newton-Schulz rounds in bf16."""
    a, b, c = QUINTIC
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).float()
