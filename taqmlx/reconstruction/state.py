"""State of block reconstruction, and its updates by Adam."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.optimizers import Adam

from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.reconstruction.flat_weights import FlatWeights
from taqmlx.reconstruction.input_quantizers import list_steps


@dataclass
class State:
    """State of learning: phase, its next iteration, alpha (n,), logarithms of the step sizes by reader, Adam's states,
    the losses so far, and the held-out errors of the phase, if they are measured.
    """

    phase: int
    iteration: int
    alpha: mx.array
    log_steps: dict[str, mx.array]
    adam: dict[str, Any]
    losses: list[float]
    errors: list[float] = field(default_factory=list)


def start_state(flat: FlatWeights, quantizers: Mapping[str, InputQuantizer]) -> State:
    """State before the first iteration."""
    log_steps = {key: mx.log(steps) for key, steps in list_steps(quantizers).items()}
    return State(0, 0, flat.start_alpha(), log_steps, {}, [])


def read_quantizers(quantizers: Mapping[str, InputQuantizer], state: State) -> dict[str, InputQuantizer]:
    """Quantizers with the step sizes of `state`."""
    learned = {key: np.array(mx.exp(log_steps)) for key, log_steps in state.log_steps.items()}
    return {key: replace(quantizer, steps=learned.get(key)) for key, quantizer in quantizers.items()}


def restore_adams(state: State) -> dict[str, Adam]:
    """Adam for rounding and step sizes, with the states in `state` if there are any, else initialised."""
    adams = {name: Adam(0.0, bias_correction=True) for name in ("rounding", "steps")}
    for name, adam in adams.items():
        if name in state.adam:
            adam.state = state.adam[name]
        else:
            adam.init({"rounding": state.alpha} if name == "rounding" else {"steps": join_step_sizes(state.log_steps)})
    return adams


def join_step_sizes(log_steps: Mapping[str, mx.array]) -> mx.array:
    """Step sizes of all readers, (K,) or (1,) each, as one vector in the order of their names; empty without any."""
    return mx.concatenate([mx.zeros(0), *(log_steps[key] for key in sorted(log_steps))])


def update_alpha(state: State, adam: Adam, gradient: mx.array, rate: float) -> None:
    """Update alpha with one step of Adam."""
    adam.learning_rate = rate
    state.alpha = adam.apply_gradients({"rounding": gradient}, {"rounding": state.alpha})["rounding"]


def update_step_sizes(state: State, adam: Adam, gradients: Mapping[str, mx.array], rate: float) -> None:
    """Update the logarithms of all step sizes with one step of Adam."""
    adam.learning_rate = rate
    learned = {"steps": join_step_sizes(state.log_steps)}
    moved = adam.apply_gradients({"steps": join_step_sizes(gradients)}, learned)["steps"]
    keys = sorted(state.log_steps)
    ends = np.cumsum([state.log_steps[key].size for key in keys])[:-1]
    state.log_steps = dict(zip(keys, mx.split(moved, ends.tolist()), strict=True))
