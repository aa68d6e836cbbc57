"""A few points captured on a small transformer, and the problems of its blocks."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import build_blocks, find_block
from taqmlx.mmdit.capture import assemble_rows, capture_states
from taqmlx.mmdit.forward import bind_linears
from taqmlx.numerics.weight_grid import choose_grid
from taqmlx.planning.stage_groups import AdaRound
from taqmlx.reconstruction.block_assembly import assemble_problem, list_own_linears, read_weights, split_points
from taqmlx.reconstruction.block_problem import BlockProblem
from taqmlx.reconstruction.candidates import Learning
from taqmlx.reconstruction.input_quantizers import calibrate
from taqmlx.reconstruction.reconstruction import learn
from taqmlx.reconstruction.state import start_state

SIGMAS = np.array([1.0, 0.8, 0.55, 0.3, 0.05], np.float32)
POINTS_PER_SIGMA = 6
LATENT_SHAPE = (8, 8, 16)
WEIGHT = {"bits": 3, "group_size": 64, "symmetric": False, "range": "absmax"}
ACTIVATION = {
    "bits": 8,
    "policy": "lut",
    "group_size": "token",
    "range": "absmax",
    "shift": True,
    "migration": False,
}
UNQUANTIZED = {"bits": 16}
SETTINGS = AdaRound(
    seed=3,
    gptq_damping=0.01,
    reconstruction="joint",
    adaround_start="full_precision",
    adaround_iterations=6,
    adaround_batch=8,
    adaround_rate=0.02,
    adaround_step_rate=0.001,
    adaround_weight=0.01,
    adaround_warm_up=0.2,
    adaround_beta=[20, 2],
    adaround_drop=0,
    adaround_checkpoint_every=2,
)


@dataclass(frozen=True)
class Captured:
    """A transformer, and the block inputs at points (P,) of five noise levels, a row for each condition (R = C P).

    states: image (R, N, D) and text (R, T, D), fp16, before each block and after the last; modulation (R, D) float32;
    points and sigmas (R,).
    """

    model: Any
    states: list[tuple[np.ndarray, np.ndarray | None]]
    modulation: np.ndarray
    points: np.ndarray
    sigmas: np.ndarray

    def resolve(self, block, weight, activation, others):
        """Rules of all linears of `block`; `others` is rules of single layers by the end of their name."""
        rules = {}
        for layer in list_own_linears(self.model, block):
            own = next((rule for end, rule in others.items() if layer.name.endswith(end)), {})
            rules[layer.name] = {"weight": weight, "activation": activation} | own
        return rules

    def pose(self, block="mm_01", weight=WEIGHT, activation=ACTIVATION, others=(), split=None) -> BlockProblem:
        """The problem of a block, and the rules it was made by."""
        rules = self.resolve(block, weight, activation, dict(others))
        index = [found.name for found in build_blocks(self.model, LATENT_SHAPE)].index(block)
        weights, _ = read_weights(self.model, list_own_linears(self.model, block))
        # Each prompt has a point of every noise level.
        split = split or split_points(self.points, self.points % POINTS_PER_SIGMA, 0.25, 0)
        problem = assemble_problem(
            self.model,
            find_block(self.model, block, LATENT_SHAPE),
            rules,
            weights,
            self.states[index],
            self.states[index + 1],
            self.modulation,
            self.sigmas,
            split,
        )
        return problem, rules


def capture(model, seed=0, count=2) -> Captured:
    """Points whose latents are noise over something smooth, each under `count` random conditions."""
    rng = np.random.default_rng(seed)
    sigmas = np.repeat(SIGMAS, POINTS_PER_SIGMA)
    points, sizes = len(sigmas), model.config
    share = sigmas[:, None, None, None]
    picture = rng.standard_normal((points, 1, 1, 16)) + 0.3 * rng.standard_normal((points, *LATENT_SHAPE))
    xs = (share * rng.standard_normal((points, *LATENT_SHAPE)) + (1 - share) * picture).astype(np.float32)
    shapes = (points, count, 20, sizes.token_level_text_embed_dim), (points, count, sizes.pooled_text_embed_dim)
    conditions = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    modulation, states = capture_states(model, bind_linears(model), assemble_rows(xs, 1000 * sigmas, *conditions))
    halves = [tuple(None if part is None else part.astype(np.float16) for part in pair) for pair in states]
    return Captured(model, halves, modulation, np.tile(np.arange(points), count), np.tile(sigmas, count))


def set_up(problem, rules):
    """Grids of the weights that have one, quantizers of the inputs, and what those were chosen from."""
    chosen = {name: rules[name]["weight"] for name in problem.weights}
    grids = {name: choose_grid(problem.weights[name], rule) for name, rule in chosen.items() if rule["bits"] < 16}
    return grids, *calibrate(problem, {name: rule["activation"] for name, rule in rules.items()}, 0)


def learn_quietly(problem, flat, quantizers, settings, state=None, save=lambda state: None):
    """The state after learning."""
    return learn(problem, flat, quantizers, settings, state or start_state(flat, quantizers), save, lambda loss: None)


def ignore_progress() -> Learning:
    """No state to start from, nothing saved."""
    return Learning(None, lambda state: None, lambda loss: None)


def as_arrays(state) -> dict[str, np.ndarray]:
    """What was learned, by name."""
    return {"alpha": np.array(state.alpha)} | {key: np.array(value) for key, value in state.log_steps.items()}


def quantize_nothing(key: str, x: mx.array) -> mx.array:
    """Full precision."""
    return x


def differs(first, second) -> bool:
    """Whether two states are not equal to the bit."""
    return any((value != as_arrays(second)[name]).any() for name, value in as_arrays(first).items())
