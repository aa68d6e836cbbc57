"""Conversion between the state of a block's learning and named arrays for storage."""

from typing import Any

import mlx.core as mx
import numpy as np

from taqmlx.reconstruction.state import State
from taqmlx.store.learning_state import Numbers

# Nested dictionaries of arrays, such as the state of an optimizer of MLX.
Tree = dict[str, Any]


def pack_state(state: State) -> tuple[Numbers, dict[str, np.ndarray]]:
    """State as plain numbers and arrays."""
    arrays = {"alpha": state.alpha, **{f"log_steps {key}": value for key, value in state.log_steps.items()}}
    for name, adam in state.adam.items():
        arrays |= {f"adam {name} {key}": value for key, value in flatten_tree(adam)}
    numbers: dict[str, Any] = {"phase": state.phase, "iteration": state.iteration, "losses": state.losses}
    numbers |= {"errors": state.errors} if state.errors else {}
    return numbers, {key: np.array(value) for key, value in arrays.items()}


def flatten_tree(tree: Tree, path: str = "") -> list[tuple[str, mx.array]]:
    """Arrays of nested dictionaries by path; parts are joined by spaces, which layer names never contain."""
    pairs: list[tuple[str, mx.array]] = []
    for key, value in tree.items():
        place = f"{path} {key}".strip()
        pairs += flatten_tree(value, place) if isinstance(value, dict) else [(place, value)]
    return pairs


def pack_tree(tree: Tree) -> dict[str, np.ndarray]:
    """Arrays of nested dictionaries by path, as NumPy arrays."""
    return {path: np.array(value) for path, value in flatten_tree(tree)}


def unpack_tree(arrays: dict[str, np.ndarray], trees: Tree) -> Tree:
    """`trees` with the arrays of `pack_tree` inserted at their paths."""
    for key, value in arrays.items():
        *path, last = key.split(" ")
        place = trees
        for part in path:
            place = place.setdefault(part, {})
        place[last] = mx.array(value)
    return trees


def unpack_state(saved: tuple[Numbers, dict[str, np.ndarray]] | None) -> State | None:
    """State from the output of `pack_state`; None for None."""
    if saved is None:
        return None
    numbers, arrays = saved
    trees = unpack_tree(arrays, {"log_steps": {}, "adam": {}})
    kept = {"losses": numbers["losses"], "errors": list(numbers.get("errors", ()))}
    return State(numbers["phase"], numbers["iteration"], **trees, **kept)
