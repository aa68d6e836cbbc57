"""The state of a block's learning as named arrays, to be stored."""

from typing import Any

import mlx.core as mx
import numpy as np

from taqmlx.reconstruction.reconstruction import State


def pack_state(state: State) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A state as plain numbers and arrays."""
    arrays = {"alpha": state.alpha, **{f"log_steps {key}": value for key, value in state.log_steps.items()}}
    for name, adam in state.adam.items():
        arrays |= {f"adam {name} {key}": value for key, value in flatten_tree(adam)}
    numbers = {"phase": state.phase, "iteration": state.iteration, "losses": state.losses}
    return numbers, {key: np.array(value) for key, value in arrays.items()}


def flatten_tree(tree: dict[str, Any], path: str = "") -> list[tuple[str, mx.array]]:
    """The arrays of nested dictionaries by path, its parts joined by spaces, which no layer's name has."""
    pairs: list[tuple[str, mx.array]] = []
    for key, value in tree.items():
        place = f"{path} {key}".strip()
        pairs += flatten_tree(value, place) if isinstance(value, dict) else [(place, value)]
    return pairs


def pack_tree(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of nested dictionaries by path."""
    return {path: np.array(value) for path, value in flatten_tree(tree)}


def unpack_tree(arrays: dict[str, np.ndarray], trees: dict[str, Any]) -> dict[str, Any]:
    """`trees` with the arrays of `pack_tree` in their places."""
    for key, value in arrays.items():
        *path, last = key.split(" ")
        place = trees
        for part in path:
            place = place.setdefault(part, {})
        place[last] = mx.array(value)
    return trees


def unpack_state(saved: tuple[dict[str, Any], dict[str, np.ndarray]] | None) -> State | None:
    """The state of `pack_state`."""
    if saved is None:
        return None
    numbers, arrays = saved
    trees = unpack_tree(arrays, {"log_steps": {}, "adam": {}})
    return State(numbers["phase"], numbers["iteration"], **trees, losses=numbers["losses"])
