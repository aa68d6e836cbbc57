"""Operations are those of the real forward, and the work of a stage is that of its loops."""

import math

import mlx.core as mx
import pytest

from taqmlx.budgeting import flops
from taqmlx.budgeting.shapes import ModelShapes, read_shapes
from taqmlx.mmdit.blocks import resolve_module
from taqmlx.mmdit.forward import bind_linears, measure_shapes, predict_velocity
from taqmlx.mmdit.transformer import list_layers
from taqmlx.numerics.elementwise import KERNELS
from taqmlx.planning import configuration
from tools.reference import FLUX, NORMED, create_transformer

LATENT, TOKENS, ROWS = (8, 8, 16), 20, 3


def complete(**values):
    return configuration.complete(values, configuration.load_schema())


@pytest.fixture(autouse=True)
def mlx_functions(monkeypatch):
    """MLX's own norms, GELU and attention, as on a GPU: MLX cannot trace the custom functions of a CPU."""
    monkeypatch.setitem(KERNELS, mx.cpu, KERNELS[mx.gpu])


def count_products(transformer):
    """Operations of every product of matrices in the traced graph of a forward of ROWS rows."""
    linear, config = bind_linears(transformer), transformer.config
    context = mx.zeros((ROWS, TOKENS, config.token_level_text_embed_dim), config.dtype)
    pooled = mx.zeros((ROWS, config.pooled_text_embed_dim), config.dtype)
    found = []

    def velocity(latents, context, pooled, timesteps):
        return predict_velocity(transformer, linear, latents, context, pooled, timesteps, mx.arange(ROWS))

    def record(entry):
        if entry.get("name") in ("Matmul", "AddMM"):
            (_, left, _), (_, right, _) = entry["inputs"][:2]
            found.append(2 * math.prod(left) * right[-1])

    arrays = (mx.zeros((ROWS, *LATENT), config.dtype), context, pooled, mx.full((ROWS,), 500.0))
    mx.export_function(record, velocity, *arrays)
    return sum(found)


def describe(transformer):
    """Shapes of a transformer; of the fields that do not affect the count, any."""
    streams, layers = measure_shapes(transformer.config, LATENT, TOKENS), list_layers(transformer)
    return ModelShapes(
        conditions=2,
        latent=LATENT,
        picture=(64, 64),
        context=(TOKENS, 128),
        pooled=128,
        image=tuple(streams["image_shape"]),
        text=tuple(streams["text_shape"]),
        heads=transformer.config.num_heads,
        layers=layers,
        weights={layer.name: tuple(resolve_module(transformer, layer.path)["weight"].shape) for layer in layers},
        parameters=0,
        itemsize=4,
    )


@pytest.mark.parametrize("changes", [{}, NORMED, FLUX], ids=["sd3", "sd3.5", "flux"])
def test_operations_of_a_row_are_those_of_the_traced_forward(changes):
    transformer = create_transformer(**changes)
    shapes = describe(transformer)
    patches = 2 * math.prod(transformer.x_embedder.proj.weight.shape) * shapes.image[0]  # it is in no registry
    assert count_products(transformer) == ROWS * (flops.count_row(shapes).total + patches)


def test_a_longer_text_costs_its_tokens_and_the_attention():
    shapes = read_shapes(complete(model="sd3-medium", height=256, width=256))
    shorter = read_shapes(complete(model="sd3-medium", height=256, width=256, use_t5=False))
    assert 1.7 < flops.count_row(shapes).blocks / flops.count_row(shorter).blocks < 2.3


def test_work_is_that_of_the_loops():
    config = complete(trajectories=30, steps=20, selected_steps=5, capture_points=50, statistics_points=40)
    config |= {"engine": "adaround", "adaround_iterations": 7, "adaround_batch": 8, "distil": "none"}
    shapes = read_shapes(config)
    work = flops.count_work(config, 30, shapes)
    assert work["collect_shard"].forwards == 2 * 30 * 20
    assert work["collect_activations"].forwards == 2 * 40
    assert work["capture_blocks"].forwards == 2 * 50
    assert work["optimise_block"].forwards == 4 * 2 * 50 + 7 * 8 * 3
    assert work["optimise_block"].flop == work["optimise_block"].forwards * flops.count_row(shapes).blocks
    assert "distil" not in work


def test_learning_in_16_bits_takes_the_time_of_its_linear_layers_in_fp16():
    """Those of the teacher, of the measurements and of the attention stay in fp32."""
    config = complete(model="sd3-medium", engine="adaround", adaround_iterations=7, adaround_batch=8, capture_points=50)
    shapes = read_shapes(config)
    row, plain = flops.count_row(shapes), flops.count_work(config, 30, shapes)
    assert plain["optimise_block"].half == plain["distil"].half == 0
    for dtype in ("float16", "bfloat16"):
        work = flops.count_work(config | {"learning_dtype": dtype}, 30, shapes)
        half = {stage: work[stage].half * work[stage].flop for stage in ("optimise_block", "distil")}
        assert half["optimise_block"] == pytest.approx(7 * 8 * 3 * row.linear)
        distilled = config["distil_iterations"] * config["distil_batch"] * config["distil_unroll"] * 2
        assert half["distil"] == pytest.approx(distilled * 3 * (row.linear + row.others))
        assert {name: own.flop for name, own in work.items()} == {name: own.flop for name, own in plain.items()}
        assert work["collect_shard"].half == work["encode_prompts"].half == 1


def test_an_engine_without_learning_only_measures():
    config = complete(engine="gptq", capture_points=50)
    assert flops.count_work(config, 256, read_shapes(config))["optimise_block"].forwards == 4 * 2 * 50
