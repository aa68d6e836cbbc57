"""AdaRound of one block in plain torch: autograd through the sigmoid, torch's own Adam, attention and GELU.

Batches, initial values, constants and learning rates are those of the project's loop.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.planning.stage_groups import AdaRound
from taqmlx.reconstruction.block_problem import BlockProblem, pair_targets
from taqmlx.reconstruction.flat_weights import FlatWeights

ZETA, GAMMA = 1.1, -0.1


def convert(array: Any) -> Tensor:
    """An array of NumPy or MLX as a tensor fp32."""
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


class RoundedLinear(torch.nn.Module):
    """A linear layer whose weight is below + scale h(alpha)."""

    def __init__(self, below: Tensor, scale: Tensor, alpha: Tensor, bias: Tensor | None):
        super().__init__()
        self.below, self.scale, self.bias = below, scale, bias
        self.alpha = torch.nn.Parameter(alpha)

    def round_softly(self) -> Tensor:
        return (torch.sigmoid(self.alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return functional.linear(x, self.below + self.scale * h, self.bias)


class LearnedStep(torch.nn.Module):
    """LSQ with one step size for each noise level: straight through the rounding, the gradient scaled."""

    def __init__(self, steps: Tensor, shift: Tensor | None, bits: int):
        super().__init__()
        self.log_steps = torch.nn.Parameter(steps.log())
        self.shift, self.largest = shift, 2 ** (bits - 1) - 1

    def forward(self, x: Tensor, sigma_index: Tensor) -> Tensor:
        step = self.log_steps.exp()[sigma_index][:, None, None]  # (B,) -> (B, 1, 1)
        scale = 1 / math.sqrt(x[0].numel() * self.largest)
        step = step * scale + (step - step * scale).detach()
        value = ((x if self.shift is None else x - self.shift) / step).clamp(-self.largest, self.largest)
        rounded = (value + (value.round() - value).detach()) * step
        return rounded if self.shift is None else rounded + self.shift


class TorchBlock(torch.nn.Module):
    """The multimodal block of `problem`, not the model's last, with `lut` quantizers, at the start of its learning."""

    def __init__(self, problem: BlockProblem, flat: FlatWeights, quantizers: Mapping[str, InputQuantizer]):
        super().__init__()
        self.block, self.readers = problem.block, problem.readers
        below, scales, alphas = (flat.split(part) for part in (flat.below, flat.scales, flat.start_alpha()))
        self.names = list(flat.shapes)
        self.linears = torch.nn.ModuleList(
            RoundedLinear(
                convert(below[name]),
                convert(scales[name]),
                convert(alphas[name]),
                None if problem.biases[name] is None else convert(problem.biases[name]),
            )
            for name in self.names
        )
        self.keys = list(quantizers)
        self.quantizers = torch.nn.ModuleList(
            LearnedStep(convert(q.steps), None if q.shift is None else convert(q.shift), q.bits)
            for q in quantizers.values()
        )

    def forward(self, rows: list[Tensor], sigma_index: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The outputs by stream, and h of every layer."""
        linears = dict(zip(self.names, self.linears, strict=True))
        steps = dict(zip(self.keys, self.quantizers, strict=True))
        rounding = {name: layer.round_softly() for name, layer in linears.items()}
        quantized: dict[str, Tensor] = {}

        def linear(name: str, x: Tensor) -> Tensor:
            key = self.readers[name]
            if key not in quantized:
                quantized[key] = steps[key](x, sigma_index)
            return linears[name](quantized[key], rounding[name])

        return self.run(linear, *rows), list(rounding.values())

    def run(
        self, linear: Callable[[str, Tensor], Tensor], image: Tensor, text: Tensor, *modulations: Tensor
    ) -> dict[str, Tensor]:
        streams = {"image": image, "text": text}
        parts = {name: part.chunk(6, dim=-1) for name, part in zip(streams, modulations, strict=True)}
        heads: list[list[Tensor]] = []
        for name, x in streams.items():
            y = self.normalise(x, *parts[name][:2])
            projected = [linear(f"{self.block.name}.{name}.attn.{part}_proj", y) for part in "qkv"]
            heads.append([z.unflatten(-1, (self.block.num_heads, -1)).transpose(1, 2) for z in projected])
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(*heads, strict=True))
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        split = attended.split([image.shape[1], text.shape[1]], dim=1)
        return {
            name: self.finish(linear, f"{self.block.name}.{name}", x, part, parts[name])
            for (name, x), part in zip(streams.items(), split, strict=True)
        }

    def finish(
        self, linear: Callable[[str, Tensor], Tensor], name: str, x: Tensor, attended: Tensor, parts: tuple[Tensor, ...]
    ) -> Tensor:
        x = x + linear(f"{name}.attn.o_proj", attended) * parts[2]
        hidden = functional.gelu(linear(f"{name}.mlp.fc1", self.normalise(x, parts[3], parts[4])))
        return x + parts[5] * linear(f"{name}.mlp.fc2", hidden)

    def normalise(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], eps=self.block.eps) * (1 + scale) + shift


def measure_loss(problem: BlockProblem, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """The reconstruction loss of `compute_loss`."""
    return sum(
        (outputs[name] - target).square().sum() / (len(target) * problem.powers[name])
        for name, target in targets.items()
    )


def bind_torch_iteration(
    problem: BlockProblem, block: TorchBlock, settings: AdaRound
) -> Callable[[int, np.ndarray, tuple[float, float] | None, float], float]:
    """`iterate(indices, pressure, step_rate)` learns from the rows at `indices` and returns the loss.

    pressure: weight and exponent of the regularizer or None; step_rate: the learning rate of the step sizes.
    """
    alphas = [layer.alpha for layer in block.linears]
    log_steps = [quantizer.log_steps for quantizer in block.quantizers]
    groups = [{"params": alphas, "lr": settings.adaround_rate}, {"params": log_steps}]
    adam = torch.optim.Adam(groups, fused=True)

    def iterate(indices: np.ndarray, regularizer: tuple[float, float] | None, step_rate: float) -> float:
        given = (problem.rows.image, problem.rows.text, *problem.rows.modulations.values())
        rows = [convert(part[indices]) for part in given]
        targets = {name: convert(part[indices]) for name, part in pair_targets(problem.rows).items()}
        outputs, rounding = block(rows, torch.from_numpy(problem.rows.sigma_index[indices]))
        loss = measure_loss(problem, outputs, targets)
        total = loss
        if regularizer is not None:
            weight, beta = regularizer
            total = loss + weight * sum((1 - (2 * h - 1).abs().pow(beta)).sum() for h in rounding)
        adam.zero_grad()
        total.backward()
        adam.param_groups[1]["lr"] = step_rate
        adam.step()
        return loss.item()

    return iterate
