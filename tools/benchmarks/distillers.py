"""Distillation loops to compare, each in its own process: an input line runs some iterations.

`python -m tools.benchmarks.distillers NAME` answers a line with the seconds of an iteration. All learn codes of 4 bits,
scales, zero points and biases of all linears from the guided velocity of 32 points, inputs unrounded.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import taqmlx  # noqa: F401  before MLX, for its BLAS

CHUNK = 4  # iterations
POINTS, BATCH, TEXT, WIDTH = 64, 32, 20, 128
BITS, GROUP, GUIDANCE, RATE, CODE_RATE = 4, 64, 3.0, 5e-4, 3e-3
RULE = {"bits": BITS, "group_size": GROUP, "symmetric": False, "range": "absmax"}

Iterate = Callable[[int], float]


def build_ours() -> Iterate:
    """The project's loop."""
    import mlx.core as mx
    import numpy as np

    from taqmlx.mmdit.calibration_points import CalibrationPoints
    from taqmlx.models import embedded
    from taqmlx.numerics.weight_grid import choose_grid, round_to_grid
    from taqmlx.planning.layer_rules import FLOAT16
    from taqmlx.planning.layers import list_linears
    from taqmlx.reconstruction.block_assembly import read_weights
    from taqmlx.reconstruction.distillation import State, bind_iteration, open_streams, prepare_lessons
    from taqmlx.reconstruction.stages import WHOLE
    from taqmlx.reconstruction.student import Student
    from taqmlx.reconstruction.velocity_loss import Settings, Task

    model, rng = embedded.load_transformer(), np.random.default_rng(0)
    weights, biases = read_weights(model, list_linears(model.config.depth_multimodal))
    grids = {name: choose_grid(weight, RULE) for name, weight in weights.items()}
    codes = {name: round_to_grid(np.array(weight), grids[name]) for name, weight in weights.items()}
    student = Student(grids, FLOAT16, {}, biases, dict.fromkeys(biases, 1.0), {}, {}, np.ones(1, np.float32))
    cs, pooled = (rng.standard_normal((POINTS, 2, *shape), np.float32) for shape in ((TEXT, WIDTH), (WIDTH,)))
    levels = np.linspace(1, 0.01, POINTS, dtype=np.float32)
    points = CalibrationPoints(
        rng.standard_normal((POINTS, *embedded.LATENT_SHAPE), np.float32),
        1000 * levels,
        levels,
        np.arange(POINTS),
        lambda chosen: [cs[chosen], pooled[chosen]],
    )
    every = np.arange(POINTS)
    sets = points, np.append(levels, np.float32(0)), every, every
    task = Task(lambda: model, model, student, *sets, 2, BATCH, WHOLE)
    settings = Settings("codes", 10**6, BATCH, RATE, CODE_RATE, 0.5, 0.0, 1, 10**6, GUIDANCE, 0, "float32")
    streams = open_streams()
    learn = bind_iteration(task, settings, State(0, student.start(model, codes, True), {}, []), streams)
    mx.eval(model.parameters())

    def iterate(iteration: int) -> float:
        (lessons,) = prepare_lessons(task, settings, streams, [iteration])
        return learn(iteration, lessons)

    return iterate


def build_torch(threads: int) -> Iterate:
    """The same in plain torch: autograd through straight-through rounding, torch's own Adam."""
    import torch
    from torch import Tensor, nn
    from torch.nn.utils import parametrize

    from taqmlx.training.transformer import Transformer

    class Codes(nn.Module):
        """A weight (out, in) as codes, scales and zero points, each rounded to its stored type."""

        def __init__(self, weight: Tensor):
            super().__init__()
            groups = weight.reshape(len(weight), -1, GROUP)
            low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
            self.scale = nn.Parameter((high - low) / (2**BITS - 1))
            self.zero = nn.Parameter(low.clone())

        def forward(self, codes: Tensor) -> Tensor:
            whole = codes + (codes.clamp(0, 2**BITS - 1).round() - codes).detach()
            scale, zero = (part + (part.half().float() - part).detach() for part in (self.scale, self.zero))
            return (whole.reshape(len(codes), -1, GROUP) * scale + zero).reshape(codes.shape)

        def right_inverse(self, weight: Tensor) -> Tensor:
            groups = weight.reshape(len(weight), -1, GROUP)
            return ((groups - self.zero) / self.scale).reshape(weight.shape).detach()

    torch.set_num_threads(threads)
    teacher, student = Transformer().eval(), Transformer()
    student.load_state_dict(teacher.state_dict())
    for module in list(student.modules()):
        if isinstance(module, nn.Linear):
            parametrize.register_parametrization(module, "weight", Codes(module.weight.detach()))
    names = dict(student.named_parameters())
    codes = [value for name, value in names.items() if name.endswith("original")]
    others = [value for name, value in names.items() if not name.endswith("original")]
    adam = torch.optim.Adam([{"params": codes, "lr": CODE_RATE}, {"params": others, "lr": RATE}], betas=(0.9, 0.99))
    latents = torch.randn(POINTS, 16, 8, 8)
    cs, pooled = torch.randn(2, POINTS, TEXT, WIDTH), torch.randn(2, POINTS, WIDTH)
    levels = torch.linspace(1, 0.01, POINTS)

    def predict(model: nn.Module, where: Tensor) -> Tensor:
        rows = latents[where].repeat(2, 1, 1, 1)
        return model(rows, cs[:, where].flatten(0, 1), pooled[:, where].flatten(0, 1), 1000 * levels[where].repeat(2))

    def guide(velocity: Tensor) -> Tensor:
        positive, negative = velocity.chunk(2)
        return negative + GUIDANCE * (positive - negative)

    def iterate(iteration: int) -> float:
        where = torch.randperm(POINTS)[:BATCH]
        with torch.no_grad():
            wanted = predict(teacher, where)
        error = predict(student, where) - wanted
        loss = (guide(error).square().mean() + 0.5 * error.square().mean()) / guide(wanted).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.item()

    return iterate


BUILDERS: dict[str, Callable[[], Any]] = {
    "ours": build_ours,
    "torch": partial(build_torch, 1),
    "torch_two_threads": partial(build_torch, 2),
}


def main(name: str) -> None:
    iterate, done = BUILDERS[name](), 0
    iterate(done)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(CHUNK):
            done += 1
            iterate(done)
        print((time.perf_counter() - start) / CHUNK, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
