"""The device that a part runs on, and its memory."""

from collections.abc import Sequence

import mlx.core as mx

MB = 1e6  # bytes


def choose_device(name: str) -> None:
    """Let MLX compute on `gpu` or `cpu`."""
    mx.set_default_device(getattr(mx, name))


def find_gpu() -> bool:
    """True if MLX computes on a GPU by default."""
    return bool(mx.default_device().type == mx.gpu)


def name_machine() -> str:
    """The name of the device that MLX computes on, with its memory if MLX says it."""
    found = mx.device_info()
    memory = next((found[key] for key in ("memory_size", "total_memory") if key in found), 0)
    name = str(found.get("device_name", mx.default_device()))
    return f"{name}, {memory / 1e9:.0f} GB" if memory else name


def reset_memory() -> None:
    """Begin a new peak."""
    mx.clear_cache()
    mx.reset_peak_memory()


def read_memory() -> float:
    """The peak of what MLX allocated since `reset_memory`, in MB."""
    return float(mx.get_peak_memory()) / MB


def evaluate(*arrays: mx.array | Sequence[mx.array]) -> None:
    """Compute `arrays` and wait for the device."""
    mx.eval(*arrays)
    mx.synchronize()
