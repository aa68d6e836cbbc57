"""Optimisation loop of all trained parts: bf16 arithmetic on fp32 weights, with exact resume.

A checkpoint is one safetensors file: weights, averaged weights, optimizer moments and the step. Batches and noise are
drawn from a generator seeded by (seed, step), so a resumed run gives the same result as an uninterrupted one.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from taqmlx.runtime.entry import Progress, log
from taqmlx.store.checksum_files import checksummed
from taqmlx.store.files import write_atomically
from taqmlx.store.lock import hold_lock
from taqmlx.training.muon import Muon
from taqmlx.training.recipe import THREADS, Stage

LossFunction = Callable[[torch.Generator], Tensor]
Optimizers = list[torch.optim.Optimizer]
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum")  # state that AdamW and Muon keep per parameter


def optimise(model: nn.Module, loss_of: LossFunction, stage: Stage, out: Path, label: str) -> None:
    """Train `model` in place, resuming from the checkpoint beside `out` if present; write the averaged weights to
    `out`.

    `loss_of(generator)` draws a batch with `generator` and returns the scalar loss; it runs under bf16 autocast.
    """
    with hold_lock(out.with_suffix(".lock"), log.info):
        # The checkpoint is not a declared output, because Snakemake deletes those.
        learned = learn(model, loss_of, stage, out.with_suffix(".checkpoint.safetensors"), label)
        with checksummed(out):
            write_tensors(learned, out)


def learn(model: nn.Module, loss_of: LossFunction, stage: Stage, checkpoint: Path, label: str) -> dict[str, Tensor]:
    """Train `model` in place, resuming from `checkpoint` if present; return the averaged weights."""
    torch.set_num_threads(THREADS)
    optimizers = build_optimizers(model, stage)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    first = restore_checkpoint(model, optimizers, average, checkpoint) if checkpoint.exists() else 0
    progress = Progress(label, stage.steps, "steps", done=first, interval=20.0)
    model.train()
    for step in range(first, stage.steps):
        loss = take_step(model, optimizers, loss_of, stage, step)
        update_average(average, model, min(stage.ema_decay, (step + 1) / (step + 10)))
        progress.advance(note=f"loss {loss:.4f}")
        if (step + 1) % stage.checkpoint_every == 0 or step + 1 == stage.steps:
            save_checkpoint(model, optimizers, average, step + 1, checkpoint)
    return average


def build_optimizers(model: nn.Module, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for matrices and convolution kernels; AdamW for vectors and embedding tables."""
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and name not in tables]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or name in tables]
    return [
        Muon(matrices, lr=stage.learning_rate, weight_decay=stage.weight_decay),
        torch.optim.AdamW(others, lr=stage.learning_rate, weight_decay=0.0, betas=(0.9, 0.99), fused=True),
    ]


def take_step(model: nn.Module, optimizers: Optimizers, loss_of: LossFunction, stage: Stage, step: int) -> float:
    """Take one optimizer step; return the loss."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = stage.learning_rate * learning_rate_share(stage, step)
    generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + step)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(generator)
    model.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), stage.clip_norm)
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())


def learning_rate_share(stage: Stage, step: int) -> float:
    """Learning rate factor: linear warm-up, then cosine decay to zero."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - stage.warmup) / max(stage.steps - stage.warmup, 1))


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Move `average` towards the model's parameters; copy its running statistics."""
    parameters = dict(model.named_parameters())
    for name, value in model.state_dict().items():
        average[name].lerp_(value, 1 - decay) if name in parameters else average[name].copy_(value)


def save_checkpoint(
    model: nn.Module, optimizers: Optimizers, average: dict[str, Tensor], step: int, path: Path
) -> None:
    """Write the complete training state atomically."""
    tensors = {"step": torch.tensor(step)}
    tensors |= {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for name, parameter in model.named_parameters():
        state = next(optimizer.state[parameter] for optimizer in optimizers if parameter in optimizer.state)
        tensors |= {f"optimizer.{key}.{name}": value for key, value in state.items()}
    write_tensors({name: value.detach().contiguous() for name, value in tensors.items()}, path)


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file atomically."""
    write_atomically(path, lambda partial: save_file(tensors, partial))


@torch.no_grad()
def restore_checkpoint(model: nn.Module, optimizers: Optimizers, average: dict[str, Tensor], path: Path) -> int:
    """Load a checkpoint of `save_checkpoint`; return the number of completed steps."""
    tensors = load_file(path)
    model.load_state_dict(select(tensors, "model."))
    average.update(select(tensors, "average."))
    moments = {key: select(tensors, f"optimizer.{key}.") for key in MOMENTS}
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            name = names[parameter]
            optimizer.state[parameter] = {key: values[name] for key, values in moments.items() if name in values}
    return int(tensors["step"])


def select(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names start with `prefix`, with the prefix removed."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def split_batches(count: int, batch: int) -> Iterator[slice]:
    """Slices that cover `count` rows."""
    return (slice(start, min(start + batch, count)) for start in range(0, count, batch))
