"""Small transformers and their quantized blocks, from which distillation starts."""

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from taqmlx.mmdit.forward import bind_linears, predict_velocity
from taqmlx.numerics.input_quantizer import InputQuantizer, create_quantizer
from taqmlx.numerics.weight_grid import choose_grid, round_to_grid
from taqmlx.planning.layer_rules import UNQUANTIZED
from taqmlx.planning.layers import list_linears, reads_gelu
from taqmlx.reconstruction.block_assembly import read_weights
from taqmlx.store.block_file import LayerWeight, read_block, write_block
from tests.mmdit.test_calibration_points import SIGMAS
from tools.reference import create_transformer

CENTRED = ("static", "lut")  # the policies that shift and migrate what follows a GELU


def list_layers(model):
    return list_linears(model.config.depth_multimodal, model.config.depth_unified)


def create_model(**changes):
    """A small transformer whose values fp16 holds, as those of a checkpoint."""
    model = create_transformer(**{"depth_multimodal": 2} | changes)
    model.update(tree_map(lambda value: value.astype(mx.float16).astype(value.dtype), model.parameters()))
    return model


def choose_rules(layers, activation, bits=None, sizes=(32, 64, 128), **stored):
    """A rule for every layer; widths and group sizes in turn, one layer in nine in full precision.

    stored: the `scale_dtype` of all rules, if not fp16.
    """
    rules = {}
    for place, layer in enumerate(layers):
        width = bits or (2, 3, 4, 5, 6, 7, 8)[place % 7]
        weight = {"bits": width, "group_size": sizes[place % len(sizes)], "symmetric": False, "range": "absmax"}
        weight |= stored
        is_read = layer.block and layer.role != "adaLN"
        rules[layer.name] = {
            "weight": {"bits": UNQUANTIZED} if bits is None and place % 9 == 8 else weight,
            "activation": activation if is_read else {"bits": UNQUANTIZED},
        }
    return rules


def calibrate_slowly(model, points) -> dict[str, float]:
    """By input the largest value that the layers read."""
    exact, largest = bind_linears(model), {}
    inputs = {layer.name: layer.input for layer in list_layers(model)}

    def record(name, x):
        largest[inputs[name]] = max(largest.get(inputs[name], 0.0), mx.abs(x).max().item())
        return exact(name, x)

    predict_velocity(model, record, *points.take(np.arange(len(points.xs))))
    return largest


def describe_inputs(model, points, rules) -> dict[str, InputQuantizer]:
    """The grids of the inputs that have step sizes; what follows a GELU is shifted and migrated."""
    rng, largest, found = np.random.default_rng(0), calibrate_slowly(model, points), {}
    layers = {layer.name: layer for layer in list_layers(model)}
    for name, layer in layers.items():
        policy, width = rules[name]["activation"].get("policy"), read_weights(model, [layer])[0][name].shape[1]
        if policy in CENTRED:
            growth = np.linspace(0.7, 1.1, len(SIGMAS)) if policy == "lut" else np.ones(1)
            after = reads_gelu(name)
            shift = rng.uniform(-0.1, 0.3, width).astype(np.float32) if after else None
            migration = rng.integers(1, 4, width).astype(np.int32) if after else None
            steps = (growth * largest[layer.input] / 127).astype(np.float32)
            found[name] = create_quantizer(rules[name]["activation"], steps, shift, migration)
    return found


def make_files(folder, model, points, activation, **changes):
    """The files of every block and of the layers of none, rounded to nearest, as read; changes: of the rules."""
    layers = list_layers(model)
    rules = choose_rules(layers, activation, **changes)
    inputs, files = describe_inputs(model, points, rules), []
    for unit in dict.fromkeys(layer.block or "shared" for layer in [*(x for x in layers if x.block), *layers]):
        own = [layer for layer in layers if (layer.block or "shared") == unit]
        rounded = {}
        for key, weight in read_weights(model, own)[0].items():
            if rules[key]["weight"]["bits"] != UNQUANTIZED:
                given = inputs.get(key)
                moved = np.array(weight) * (1 if given is None or given.migration is None else given.migration)
                grid = choose_grid(moved, rules[key]["weight"])
                rounded[key] = LayerWeight(grid, round_to_grid(moved, grid))
        parameters = {
            "stage": "optimise_block",
            "block": unit,
            "layers": {layer.name: rules[layer.name] for layer in own},
        }
        path = folder / f"{unit}.safetensors"
        write_block(
            path,
            rounded,
            {key: inputs[key] for key in rules if key in inputs and key in parameters["layers"]},
            SIGMAS,
            parameters,
            {},
        )
        files.append(read_block(path))
    return files


def move(learned, seed=0, size=0.05):
    """What is learned, displaced at random."""
    rng = np.random.default_rng(seed)
    scale = {"codes": 1.0, "steps": 0.3}
    return {
        kind: {
            name: part + mx.array((scale.get(kind, size) * rng.standard_normal(part.shape)).astype(np.float32))
            for name, part in parts.items()
        }
        for kind, parts in learned.items()
    }
