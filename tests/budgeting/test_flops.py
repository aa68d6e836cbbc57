"""Operations are those of the real forward, and the work of a stage is that of its loops."""

import math

import mlx.core as mx
import pytest

from taqmlx.budgeting import flops, work
from taqmlx.budgeting.shapes import ModelShapes, read_shapes
from taqmlx.mmdit.blocks import resolve_module
from taqmlx.mmdit.forward import bind_linears, measure_shapes, predict_velocity
from taqmlx.mmdit.transformer import list_layers
from taqmlx.numerics.elementwise import KERNELS
from taqmlx.planning import configuration
from taqmlx.planning.bit_choices import limit_group
from taqmlx.reconstruction.weight_costs import group_layers
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
    found = flops.count_work(config, 30, shapes)
    assert found["collect_shard"].forwards == 2 * 30 * 20
    assert found["collect_activations"].forwards == 2 * 40
    assert found["capture_blocks"].forwards == 2 * 50
    assert found["optimise_block"].forwards == 4 * 2 * 50 + 7 * 8 * 3
    assert found["optimise_block"].flop == found["optimise_block"].forwards * flops.count_row(shapes).blocks
    assert "distil" not in found


def test_learning_in_16_bits_takes_the_time_of_its_linear_layers_in_fp16():
    """Those of the teacher, of the measurements and of the attention stay in fp32."""
    config = complete(model="sd3-medium", engine="adaround", adaround_iterations=7, adaround_batch=8, capture_points=50)
    shapes = read_shapes(config)
    row, plain = flops.count_row(shapes), flops.count_work(config, 30, shapes)
    assert plain["optimise_block"].half == plain["distil"].half == 0
    for dtype in ("float16", "bfloat16"):
        found = flops.count_work(config | {"learning_dtype": dtype}, 30, shapes)
        half = {stage: found[stage].half * found[stage].flop for stage in ("optimise_block", "distil")}
        assert half["optimise_block"] == pytest.approx(7 * 8 * 3 * row.linear)
        distilled = config["distil_iterations"] * config["distil_batch"] * config["distil_unroll"] * 2
        assert half["distil"] == pytest.approx(distilled * 4 * (row.linear + row.others))
        assert {name: own.flop for name, own in found.items()} == {name: own.flop for name, own in plain.items()}
        assert found["collect_shard"].half == found["encode_prompts"].half == 1


def test_distillation_runs_teacher_student_and_gradients_and_all_models_on_held_out_points():
    """A large model runs its blocks a second time for the gradients."""
    values = {"trajectories": 30, "selected_steps": 8, "distil": "scales", "distil_iterations": 7, "distil_batch": 4}
    small, large = complete(**values), complete(**values, model="sd3-medium")
    counts = [flops.count_work(config, 30, read_shapes(config))["distil"].forwards for config in (small, large)]
    assert counts == [2 * (7 * 4 * (2 + 2) + 3 * 30), 2 * (7 * 4 * (2 + 1 + 2) + 3 * 30)]


def test_held_out_points_are_measured_up_to_a_limit():
    few, many = (complete(trajectories=n, selected_steps=25, distil_iterations=1) for n in (256, 1000))
    shapes = read_shapes(few)
    assert flops.count_work(few, 256, shapes)["distil"] == flops.count_work(many, 256, shapes)["distil"]


def test_a_small_model_is_searched_in_one_group_with_whole_gradients():
    config = complete(search_points=20, search_probes=3)
    assert flops.count_work(config, 30, read_shapes(config))["measure_costs"].forwards == 2 * (20 + 3 * 8 * 3)


@pytest.mark.parametrize("model", ["sd3-medium", "sd3.5-large", "flux-schnell"])
def test_a_large_model_is_searched_in_groups_from_their_first_block(model):
    """Every group takes its points to its last block; a gradient runs all blocks, and again those from its first on."""
    guidance = {"cfg_scale": 1, "evaluation_cfg": 1} if model == "flux-schnell" else {}
    config = complete(model=model, search_points=28, search_probes=4, **guidance)
    shapes, points = read_shapes(config), 0.0
    weights = {name: mx.zeros(shape) for name, shape in shapes.weights.items()}  # lazy: not in memory
    blocks = list(dict.fromkeys(layer.block for layer in shapes.layers if layer.block))
    whole = sum(math.prod(shape) for shape in shapes.weights.values())
    for group in group_layers(shapes.layers, weights, limit_group(whole)):
        own = [blocks.index(layer.block) for layer in group if layer.block]
        first = min(own, default=len(blocks)) if all(layer.role != "embedder" for layer in group) else 0
        last = max(own, default=-1) if any(layer.block or layer.role == "embedder" for layer in group) else len(blocks)
        share = sum(weights[layer.name].size for layer in group) / whole
        points += 28 * min(1, (last + 1) / len(blocks)) + 4 * 8 * (1 + 2 * (1 - first / len(blocks)) + share)
    assert work.count_searching(config, shapes.sizes) == pytest.approx(points, rel=0.05)


def test_an_engine_without_learning_only_measures():
    config = complete(engine="gptq", capture_points=50)
    assert flops.count_work(config, 256, read_shapes(config))["optimise_block"].forwards == 4 * 2 * 50
