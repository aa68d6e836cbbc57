"""The model during distillation starts as the blocks are stored and computes as at inference."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.mmdit.calibration_points import predict_conditions
from taqmlx.mmdit.quantized import QuantizedLinears
from taqmlx.numerics.stored_types import round_values
from taqmlx.numerics.weight_grid import choose_grid, dequantize, round_to_grid
from taqmlx.planning.layer_rules import UNQUANTIZED
from taqmlx.planning.layers import reads_gelu
from taqmlx.reconstruction.block_assembly import group_readers, read_weights
from taqmlx.reconstruction.block_linears import bind_blocks
from taqmlx.reconstruction.propagation import dequantize_block
from taqmlx.reconstruction.student import UNDECIDED, assemble_student, select_learned, soften_codes
from taqmlx.store.block_file import read_block, write_block
from taqmlx.store.errors import UserError
from tests.mmdit.test_calibration_points import SIGMAS, make_points, predict_slowly
from tests.support.students import create_model, list_layers, make_files, move
from tools.reference import FLUX

POLICIES = {
    "none": {"bits": UNQUANTIZED},
    "static": {"bits": 8, "policy": "static"},
    "lut": {"bits": 8, "policy": "lut"},
    "by token": {"bits": 8, "policy": "dynamic", "group_size": "token"},
    "by groups of channels": {"bits": 8, "policy": "dynamic", "group_size": 32},
}


def predict_pointwise(model, linears, points) -> np.ndarray:
    """The velocities (C, points, h, w, c) of quantized inference, at each point's own noise level."""
    parts = [predict_slowly(model, linears.at(float(sigma)), points, i) for i, sigma in enumerate(points.sigmas)]
    return np.stack(parts, axis=1)


def predict_whole(model, student, learned, points, conditions) -> np.ndarray:
    """The student's velocities of all points in one batch."""
    batch = points.take(np.arange(len(points.xs)))
    found = predict_conditions(model, student.bind(learned, batch.timesteps), batch, conditions)
    return np.array(found.astype(mx.float32))


def assert_near(found, expected):
    """Most rows to the rounding of fp32; a few may have codes of inputs that it moved by one."""
    errors = np.square(found - expected).sum(axis=(2, 3, 4)) / np.square(expected).sum(axis=(2, 3, 4))
    assert np.sqrt(np.median(errors)) < 5e-6
    assert np.sqrt(errors.max()) < 5e-3


class Study:
    """A quantized model: its files, the student, and where it starts."""

    def __init__(self, folder, policy, **changes):
        self.conditions = 1 if changes else 2
        self.model = create_model(**changes)
        self.points = make_points(self.model, 6, self.conditions)
        self.files = make_files(folder, self.model, self.points, POLICIES[policy])
        self.student, self.codes = assemble_student(self.model, self.files)
        self.start = self.student.start(self.model, self.codes, True)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """By policy; what follows a GELU is shifted and migrated where the policy can."""
    return {policy: Study(tmp_path_factory.mktemp("files"), policy) for policy in POLICIES}


@pytest.fixture(params=list(POLICIES))
def study(request, studies):
    return studies[request.param]


@pytest.fixture
def table(studies):
    return studies["lut"]


class TestStart:
    def test_the_weights_are_the_stored_ones_bit_for_bit(self, study):
        found = study.student.restore_weights(study.start)
        expected, _ = read_weights(study.model, list_layers(study.model))
        for file in study.files:
            expected |= {name: mx.array(dequantize(layer.codes, layer.grid)) for name, layer in file.weights.items()}
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            np.testing.assert_array_equal(np.array(found[name]), np.array(weight), err_msg=name)

    def test_corrected_biases_replace_those_of_the_model(self, table):
        name = next(name for name, bias in table.student.biases.items() if bias is not None and name.startswith("mm"))
        given = np.full(table.student.biases[name].shape, 0.5, np.float16)
        student, codes = assemble_student(
            table.model, [replace(file, biases={name: given}) if name in file.weights else file for file in table.files]
        )
        found = student.restore_biases(student.start(table.model, codes, True))
        np.testing.assert_array_equal(np.array(found[name]), given)

    def test_fixed_codes_are_kept_in_a_byte_each_and_give_the_same_weights(self, table):
        plain = table.student.start(table.model, table.codes, False)
        soft = table.student.restore_weights(table.start)
        for name, weight in table.student.restore_weights(plain).items():
            np.testing.assert_array_equal(np.array(weight), np.array(soft[name]))
        for name, codes in plain["codes"].items():
            assert codes.dtype == mx.uint8
            np.testing.assert_array_equal(np.array(codes), table.codes[name])
        assert {kind: list(parts) for kind, parts in plain.items()} == {k: list(p) for k, p in table.start.items()}

    def test_every_width_is_supported(self, study):
        assert {grid.bits for grid in study.student.grids.values()} == {2, 3, 4, 5, 6, 7, 8}
        assert len(study.student.exact) > 0

    def test_scales_zero_points_biases_and_step_sizes_are_the_stored_ones(self, table):
        scales, zeros = table.student.restore_grids(table.start)
        for file in table.files:
            for name, layer in file.weights.items():
                np.testing.assert_array_equal(np.array(scales[name]), layer.grid.scales.astype(np.float32))
                np.testing.assert_array_equal(np.array(zeros[name]), layer.grid.biases.astype(np.float32))
        biases = read_weights(table.model, list_layers(table.model))[1]
        found = table.student.restore_biases(table.start)
        assert {name for name, bias in found.items() if bias is None} == {
            k for k, bias in biases.items() if bias is None
        }
        for name, bias in table.start["biases"].items():
            assert bias.shape == biases[name].shape
            assert mx.array_equal(found[name], biases[name])
        steps = table.student.restore_steps(table.start)
        given = {name: read for file in table.files for name, read in file.inputs.items()}
        assert set(steps) == set(table.student.readers.values())
        for name, step in steps.items():
            np.testing.assert_array_equal(np.array(step), given[name].steps)

    def test_soft_codes_are_between_the_code_and_the_weight(self):
        rng = np.random.default_rng(0)
        weight = rng.standard_normal((8, 64)).astype(np.float32)
        grid = choose_grid(weight, {"bits": 4, "group_size": 32, "symmetric": False, "range": "absmax"})
        nearest = round_to_grid(weight, grid)
        other = np.clip(nearest + rng.integers(-2, 3, nearest.shape), 0, 15).astype(np.uint8)
        for codes in (nearest, other):
            for (i, j), soft in np.ndenumerate(np.array(soften_codes(codes, grid, weight))):
                group = j // 32
                place = (weight[i, j] - float(grid.biases[i, group])) / float(grid.scales[i, group])
                expected = codes[i, j] + min(max(place - codes[i, j], -UNDECIDED), UNDECIDED)
                assert soft == pytest.approx(expected, abs=1e-3)
                assert round(float(soft)) == codes[i, j]

    def test_soft_codes_of_migrated_weights_are_between_code_and_migrated_weight(self, table):
        """W diag(m) rounded to nearest: no soft code is at the limit, as each is the weight's own place."""
        name = "mm_00.image.mlp.fc2"
        moved = np.array(table.start["codes"][name]) - table.codes[name]
        inside = (table.codes[name] > 0) & (table.codes[name] < 2 ** table.student.grids[name].bits - 1)
        assert np.abs(moved[inside]).max() <= 0.5
        assert 0.2 < np.abs(moved[inside]).mean() < 0.3  # even between two codes


class TestVelocity:
    def test_the_forward_is_that_of_quantized_inference(self, study):
        expected = predict_pointwise(study.model, bind_blocks(study.model, study.files), study.points)
        assert_near(predict_whole(study.model, study.student, study.start, study.points, 2), expected)

    @pytest.mark.parametrize("policy", list(POLICIES)[1:])
    def test_quantizing_inputs_changes_the_velocity(self, studies, policy):
        """What the comparison would miss if no input were rounded."""
        own, plain = (
            predict_whole(s.model, s.student, s.start, s.points, 2) for s in (studies[policy], studies["none"])
        )
        assert np.square(own - plain).sum() > 2e-3**2 * np.square(plain).sum()

    def test_after_learning_the_forward_is_that_of_the_written_files(self, study, tmp_path):
        learned = move(study.start)
        linears = bind_file(study.model, write_student(tmp_path, study, learned))
        expected = predict_pointwise(study.model, linears, study.points)
        assert_near(predict_whole(study.model, study.student, learned, study.points, 2), expected)

    def test_a_model_without_guidance_and_with_unified_blocks_runs(self, tmp_path):
        single = {"dtype": mx.float32, "float16_dtype": mx.float32}  # sums in bfloat16 depend on their order
        study = Study(tmp_path, "by groups of channels", **FLUX | single)
        # In one batch too: many layers round their inputs, and kernels that differ by row would move codes in most.
        linear = bind_blocks(study.model, study.files).at(float(study.points.sigmas[0]))  # dynamic: of any noise level
        batch = study.points.take(np.arange(len(study.points.xs)))
        expected = np.array(predict_conditions(study.model, linear, batch, 1))
        found = predict_whole(study.model, study.student, study.start, study.points, 1)
        assert found.shape[0] == 1
        assert_near(found, expected)

    def test_a_shared_input_is_quantized_once(self, table):
        """q, k and v go by one quantizer; so do those that read alike in the files."""
        rules = {name: rule for file in table.files for name, rule in file.seal["parameters"]["layers"].items()}
        own = [layer for layer in list_layers(table.model) if layer.block and layer.role != "adaLN"]
        assert table.student.readers == group_readers(own, rules)
        q, k, v = (f"mm_00.image.attn.{part}_proj" for part in "qkv")
        assert table.student.readers[q] == table.student.readers[k] == table.student.readers[v] == q


def write_student(folder, study, learned):
    """What is learned, written and read."""
    rules = {name: rule for file in study.files for name, rule in file.seal["parameters"]["layers"].items()}
    weights, inputs, biases = study.student.export(learned)
    parameters = {"stage": "distil", "block": "distilled", "layers": rules}
    path = folder / "distilled.safetensors"
    write_block(path, weights, inputs, study.student.sigmas, parameters, {}, biases)
    return read_block(path)


def bind_file(model, file) -> QuantizedLinears:
    """Quantized inference of a distilled file, its biases in place of the model's."""
    layers = list_layers(model)
    weights, biases = read_weights(model, layers)
    weights |= dequantize_block(model, file)
    biases |= {name: mx.array(bias.astype(np.float32)) for name, bias in file.biases.items()}
    inputs = {name: file.find_input(name) for name in file.seal["parameters"]["layers"]}
    return QuantizedLinears(layers, weights, biases, inputs, file.sigmas, "nearest")


class TestExport:
    def test_written_files_give_the_learned_values_bit_for_bit(self, study, tmp_path):
        learned = move(study.start)
        file, weights = write_student(tmp_path, study, learned), study.student.restore_weights(learned)
        assert file.weights.keys() == study.student.grids.keys()
        for name, layer in file.weights.items():
            assert (layer.grid.scales.dtype, layer.grid.biases.dtype) == (np.float16, np.float16)
            np.testing.assert_array_equal(dequantize(layer.codes, layer.grid), np.array(weights[name]), err_msg=name)
        for name, bias in study.student.restore_biases(learned).items():
            assert (bias is None) == (name not in file.biases)
            if bias is not None:
                np.testing.assert_array_equal(file.biases[name].astype(np.float32), np.array(bias))
        steps, readers = study.student.restore_steps(learned), study.student.readers
        assert set(file.inputs) == {name for name, key in readers.items() if key in steps}
        for name, read in file.inputs.items():
            np.testing.assert_array_equal(read.steps, np.array(steps[readers[name]]))
        np.testing.assert_array_equal(file.sigmas, SIGMAS)

    def test_scales_of_bf16_are_learned_and_written_as_bf16(self, study, tmp_path):
        files = make_files(tmp_path, study.model, study.points, POLICIES["lut"], scale_dtype="bfloat16")
        student, codes = assemble_student(study.model, files)
        learned = move(student.start(study.model, codes, True))
        weights, _, biases = student.export(learned)
        restored = student.restore_weights(learned)
        for name, layer in weights.items():
            assert layer.grid.scale_dtype == "bfloat16"
            for part in (layer.grid.scales, layer.grid.biases):
                np.testing.assert_array_equal(part, round_values(part, "bfloat16"))
            np.testing.assert_array_equal(dequantize(layer.codes, layer.grid), np.array(restored[name]), err_msg=name)
        for name, bias in student.restore_biases(learned).items():
            if bias is not None:
                np.testing.assert_array_equal(biases[name], np.array(bias))
                np.testing.assert_array_equal(biases[name], round_values(biases[name], "bfloat16"))

    def test_shift_and_migration_are_those_of_the_blocks(self, table, tmp_path):
        found = write_student(tmp_path, table, move(table.start)).inputs
        given = {name: read for file in table.files for name, read in file.inputs.items()}
        centred = [name for name, read in found.items() if read.shift is not None]
        assert centred == [name for name in found if reads_gelu(name)]
        for name in centred:
            np.testing.assert_array_equal(found[name].shift, given[name].shift)
            np.testing.assert_array_equal(found[name].migration, given[name].migration)

    def test_without_learning_the_written_files_are_equal(self, table, tmp_path):
        found = write_student(tmp_path, table, table.start)
        for file in table.files:
            for name, layer in file.weights.items():
                np.testing.assert_array_equal(found.weights[name].codes, layer.codes)
                for part, expected in zip(found.weights[name].grid, layer.grid, strict=True):
                    np.testing.assert_array_equal(part, expected)

    def test_a_displacement_is_relative(self, table):
        """Scales and steps by a factor, zero points by their group's range, biases by the layer's root mean square."""
        name, reader = "mm_00.image.attn.o_proj", "mm_00.image.attn.o_proj"
        assert name in table.student.grids
        learned = {kind: {key: part + 0.01 for key, part in parts.items()} for kind, parts in table.start.items()}
        grid, bias = table.student.grids[name], np.array(table.student.biases[name])
        scales, zeros = table.student.restore_grids(learned)
        first, base = grid.scales.astype(np.float64), grid.biases.astype(np.float64)
        np.testing.assert_allclose(np.array(scales[name]), first * np.exp(0.01), rtol=1e-3)
        np.testing.assert_allclose(
            np.array(zeros[name]), base + 0.01 * first * (2**grid.bits - 1), rtol=2e-3, atol=1e-4
        )
        size = np.sqrt(np.square(bias).mean())
        np.testing.assert_allclose(np.array(table.student.restore_biases(learned)[name]) - bias, 0.01 * size, rtol=0.1)
        ratio = np.array(table.student.restore_steps(learned)[reader]) / np.array(
            table.student.quantizers[reader].steps
        )
        np.testing.assert_allclose(ratio, np.exp(0.01), rtol=1e-5)


class TestParts:
    def test_the_student_of_one_block_computes_the_same(self, table):
        names = {layer.name for layer in list_layers(table.model) if layer.block == "mm_01"}
        learned = move(table.start)
        own, part = select_learned(learned, names), table.student.select(names)
        assert set(part.restore_weights(own)) == names
        assert {key for kind in own.values() for key in kind} <= names
        assert set(part.quantizers) == set(part.readers.values()) <= names
        timesteps, x = mx.array([1000.0, 100.0]), mx.random.normal((2, 4, 128), key=mx.random.key(0))
        whole, alone = table.student.bind(learned, timesteps), part.bind(own, timesteps)
        for name in ("mm_01.image.attn.q_proj", "mm_01.image.attn.o_proj"):
            assert mx.array_equal(whole(name, x), alone(name, x))

    def test_a_file_without_the_step_sizes_its_rules_ask_for_is_rejected(self, table, tmp_path):
        file = table.files[0]
        path = tmp_path / "mm_00.safetensors"
        write_block(path, file.weights, {}, file.sigmas, file.seal["parameters"], {})
        with pytest.raises(UserError, match="no step sizes for a lut policy; run optimise_block again"):
            assemble_student(table.model, [read_block(path), *table.files[1:]])
