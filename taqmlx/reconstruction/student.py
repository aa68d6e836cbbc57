"""Student: the quantized model during distillation, with its learned parameters, their stored form, and its layers."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.blocks import Linear
from taqmlx.mmdit.transformer import Transformer, list_layers
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.learned_codes import dequantize_soft, round_codes, round_stored
from taqmlx.numerics.low_precision import Multiply, multiply_single
from taqmlx.numerics.schedule import TRAIN_TIMESTEPS
from taqmlx.numerics.stored_types import convert_values
from taqmlx.numerics.weight_grid import Grid, expand_groups
from taqmlx.planning.layer_rules import find_shared_dtype
from taqmlx.reconstruction.block_assembly import group_readers, read_weights
from taqmlx.reconstruction.input_quantizers import bind_rounding, list_steps
from taqmlx.reconstruction.migration import migrate_weights
from taqmlx.reconstruction.propagation import restore_biases
from taqmlx.store.block_file import BlockFile, LayerWeight

# Learned parameters as displacements, by kind (`codes`, `scales`, `zeros`, `biases`, `steps`) and layer
Learned = dict[str, dict[str, mx.array]]
UNDECIDED = 0.45  # maximum initial distance of a soft code from its code; 0.5 would round to the next one


@dataclass(frozen=True)
class Student:
    """Quantized model to be learned.

    grids: of each quantized layer; scale_dtype: stored type of their scales and zero points, and of all biases; exact:
    weights of the other layers; biases: fp32 (out,) or None of all layers, as stored; bias_scale: magnitude of each
    bias, the unit of its displacement; quantizers: of layer inputs, by reader; readers: reader of each layer with a
    quantized input; sigmas (K,): noise levels of the step sizes.
    """

    grids: dict[str, Grid]
    scale_dtype: str
    exact: dict[str, mx.array]
    biases: dict[str, mx.array | None]
    bias_scale: dict[str, float]
    quantizers: dict[str, InputQuantizer]
    readers: dict[str, str]
    sigmas: np.ndarray

    def round(self, x: mx.array) -> mx.array:
        """`x` rounded to the stored type, differentiable."""
        return round_stored(x, self.scale_dtype)

    def restore_weights(self, learned: Learned) -> dict[str, mx.array]:
        """All weights (out, in) in their stored form, differentiable."""
        scales, zeros = self.restore_grids(learned)
        return self.exact | {
            name: dequantize_soft(learned["codes"][name], scales[name], zeros[name], grid.bits)
            for name, grid in self.grids.items()
        }

    def restore_grids(self, learned: Learned) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
        """Scales and zero points (out, G) of the quantized layers in their stored form, differentiable.

        Displacements of scales are logarithmic; those of zero points are relative to the range of their group.
        """
        scales, zeros = {}, {}
        for name, grid in self.grids.items():
            first = mx.array(grid.scales.astype(np.float32))
            span = first * float(2**grid.bits - 1)
            scales[name] = self.round(first * mx.exp(learned["scales"][name]))
            zeros[name] = self.round(mx.array(grid.biases.astype(np.float32)) + span * learned["zeros"][name])
        return scales, zeros

    def restore_biases(self, learned: Learned) -> dict[str, mx.array | None]:
        """Biases (out,) of all layers in their stored form, differentiable."""
        present = {name: bias for name, bias in self.biases.items() if bias is not None}
        return self.biases | {
            name: self.round(present[name] + self.bias_scale[name] * moved) for name, moved in learned["biases"].items()
        }

    def restore_steps(self, learned: Learned) -> dict[str, mx.array]:
        """Step sizes (K,) or (1,) of the inputs that have any, by reader, differentiable."""
        first = list_steps(self.quantizers)
        return {key: first[key] * mx.exp(moved) for key, moved in learned["steps"].items()}

    def bind(self, learned: Learned, timesteps: mx.array, multiply: Multiply = multiply_single) -> Linear:
        """`linear(name, x)` for a forward of rows at `timesteps` (B,), 1000 sigma; shared inputs are quantized once."""
        weights, biases = self.restore_weights(learned), self.restore_biases(learned)
        sigma_index = mx.abs(mx.array(self.sigmas)[:, None] * TRAIN_TIMESTEPS - timesteps).argmin(
            axis=0
        )  # (K, B) -> (B,)
        quantize = bind_rounding(self.quantizers, self.restore_steps(learned), sigma_index)
        rounded: dict[str, mx.array] = {}

        def linear(name: str, x: mx.array) -> mx.array:
            if (key := self.readers.get(name)) is not None:
                if key not in rounded:
                    rounded[key] = quantize(key, x)
                x = rounded[key]
            y, bias = multiply(x, weights[name]), biases[name]
            return y if bias is None else y + bias

        return linear

    def select(self, names: Set[str]) -> "Student":
        """Student with only the layers `names`."""

        def pick(parts: dict[str, Any]) -> dict[str, Any]:
            return {name: part for name, part in parts.items() if name in names}

        readers = pick(self.readers)
        kept = set(readers.values())
        return replace(
            self,
            grids=pick(self.grids),
            exact=pick(self.exact),
            biases=pick(self.biases),
            quantizers={key: quantizer for key, quantizer in self.quantizers.items() if key in kept},
            readers=readers,
        )

    def start(self, model: Transformer, codes: Mapping[str, np.ndarray], learns_codes: bool) -> Learned:
        """Learned parameters before the first iteration.

        Codes (out, in) are soft if `learns_codes`, otherwise they stay one byte each.
        """
        return {
            "codes": self.soften(model, codes)
            if learns_codes
            else {name: mx.array(own) for name, own in codes.items()},
            "scales": {name: mx.zeros(grid.scales.shape) for name, grid in self.grids.items()},
            "zeros": {name: mx.zeros(grid.scales.shape) for name, grid in self.grids.items()},
            "biases": {name: mx.zeros(bias.shape) for name, bias in self.biases.items() if bias is not None},
            "steps": {key: mx.zeros(steps.shape) for key, steps in list_steps(self.quantizers).items()},
        }

    def soften(self, model: Transformer, codes: Mapping[str, np.ndarray]) -> dict[str, mx.array]:
        """Soft codes (out, in) near `codes`, moved towards the weights of `model`."""
        weights = read_all_weights(model)
        weights |= migrate_weights({name: weights[name] for name in self.readers}, self.readers, self.quantizers)
        return {name: soften_codes(codes[name], grid, np.array(weights[name])) for name, grid in self.grids.items()}

    def export(
        self, learned: Learned
    ) -> tuple[dict[str, LayerWeight], dict[str, InputQuantizer], dict[str, np.ndarray]]:
        """Stored form of `learned`: weights and inputs by layer, and biases (out,)."""
        scales, zeros = self.restore_grids(learned)
        weights = {}
        for name, grid in self.grids.items():
            codes = np.array(round_codes(learned["codes"][name], grid.bits)).astype(np.uint8)
            own = grid._replace(
                scales=convert_values(np.array(scales[name]), self.scale_dtype),
                biases=convert_values(np.array(zeros[name]), self.scale_dtype),
            )
            weights[name] = LayerWeight(own, codes)
        steps, inputs = self.restore_steps(learned), {}
        for name, key in self.readers.items():
            if key in steps:
                inputs[name] = replace(self.quantizers[key], steps=np.array(steps[key]))
        biases = {
            name: convert_values(np.array(bias), self.scale_dtype)
            for name, bias in self.restore_biases(learned).items()
            if bias is not None
        }
        return weights, inputs, biases


def select_learned(learned: Learned, names: Set[str]) -> Learned:
    """Parameters in `learned` of the layers `names`; a reader's step sizes have its name as key."""
    return {kind: {name: part for name, part in parts.items() if name in names} for kind, parts in learned.items()}


def soften_codes(codes: np.ndarray, grid: Grid, weight: np.ndarray) -> mx.array:
    """Soft codes (out, in) that round to `codes`, moved towards the full-precision `weight` (out, in)."""
    positions = (weight - expand_groups(grid.biases, grid.group_size)) / expand_groups(grid.scales, grid.group_size)
    whole = codes.astype(np.float32)
    return mx.array(whole + np.clip(positions - whole, -UNDECIDED, UNDECIDED))


def read_all_weights(model: Transformer) -> dict[str, mx.array]:
    """Weights (out, in) of all linear layers of `model`, fp32."""
    return read_weights(model, list_layers(model))[0]


def assemble_student(model: Transformer, files: Sequence[BlockFile]) -> tuple[Student, dict[str, np.ndarray]]:
    """Student quantized as in `files`, and its initial codes uint8 (out, in).

    The inputs of adaLN layers, embedders and the final layer are not quantized. Raises UserError if a file lacks step
    sizes required by its rules.
    """
    layers = list_layers(model)
    weights, biases = read_weights(model, layers)
    rules = {name: rule for file in files for name, rule in file.seal["parameters"]["layers"].items()}
    stored = {name: weight for file in files for name, weight in file.weights.items()}
    homes = {name: file for file in files for name in file.seal["parameters"]["layers"]}
    linears = [layer for layer in layers if layer.block and layer.role != "adaLN"]
    readers = group_readers(linears, rules)
    for file in files:
        biases |= restore_biases(file)
    scale_dtype = find_shared_dtype(rule["weight"] for rule in rules.values())
    biases = {name: None if bias is None else round_stored(bias, scale_dtype) for name, bias in biases.items()}
    present = {name: bias for name, bias in biases.items() if bias is not None}
    return Student(
        grids={name: weight.grid for name, weight in stored.items()},
        scale_dtype=scale_dtype,
        exact={name: weight for name, weight in weights.items() if name not in stored},
        biases=biases,
        bias_scale={name: float(mx.sqrt(mx.square(bias).mean())) + 1e-3 for name, bias in present.items()},
        quantizers={key: homes[key].find_input(key) for key in dict.fromkeys(readers.values())},
        readers=readers,
        sigmas=next(file.sigmas for file in files),
    ), {name: weight.codes for name, weight in stored.items()}
