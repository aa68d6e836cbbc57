"""The packed checkpoint holds the blocks' codes as they are, and MLX and DiffusionKit load it without this project."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from taqmlx.models import embedded
from taqmlx.models.diffusionkit import config as diffusionkit_config
from taqmlx.models.diffusionkit import mmdit
from taqmlx.numerics import weight_grid
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.planning import configuration, plan
from taqmlx.planning.layers import list_linears
from taqmlx.store.block_file import digest_codes, read_block
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, read_json, write_json
from taqmlx.store.mixed_bits import FORMAT as MIXED
from taqmlx.store.packed_checkpoint import read_packed
from taqmlx.store.seal import make_seal, read_file_seal
from taqmlx.store.tensors import read_tensors
from tools.small_results.study import write_rounded_blocks

LAYERS = list_linears(*plan.MODEL_BLOCKS["embedded"])
NAMES = {layer.path: layer.name for layer in LAYERS}
FC2 = "mm_01.image.mlp.fc2"
RANGE = configuration.load_schema()["properties"]["weights"]["items"]["properties"]["range"]["default"]
BLOCK_1 = "multimodal_transformer_blocks.1.image_transformer_block"


@pytest.fixture(scope="module")
def original():
    return {key: np.array(value) for key, value in tree_flatten(embedded.load_transformer().parameters())}


def take_random_codes(weight, grid):
    """Codes that rounding never gives."""
    rng = np.random.default_rng(weight.size)
    return rng.integers(0, 2**grid.bits, weight.shape).astype(np.uint8)


@pytest.fixture
def scrambled(study):
    """A study whose blocks hold random codes."""
    write_rounded_blocks(study.folder / "adaround", read_json(study.params("optimise_block")), take_random_codes)
    return study


def list_block_names(study):
    return sorted((study.folder / "adaround").glob("*.safetensors"))


def read_learned(study):
    """The weights of all blocks by layer name."""
    return {name: layer for path in list_block_names(study) for name, layer in read_block(path).weights.items()}


def make_empty_model():
    """DiffusionKit's own model of the embedded sizes, with random weights."""
    return mmdit.MMDiT(diffusionkit_config.MMDiTConfig(**embedded.TRANSFORMER, dtype=mx.float32, low_memory_mode=False))


def load_plainly(folder):
    """The checkpoint by `nn.quantize` and `load_weights` alone, computing in fp32."""
    config, model = read_json(folder / "config.json"), make_empty_model()
    nn.quantize(model, class_predicate=lambda path, _: config["quantization"].get(path, False))
    model.load_weights(str(folder / config["model"]["file"]), strict=True)
    model.set_dtype(mx.float32)
    return model


def dequantize_by_mlx(module):
    how = {"group_size": module.group_size, "bits": module.bits}
    return np.array(mx.dequantize(module.weight, module.scales, module.biases, **how))


def assert_holds_blocks(model, learned, rounded, original, chosen_by=RANGE):
    """Every quantized module is its block's weight, or where `rounded` the nearest, to 1e-6 of its largest value."""
    modules = {path: module for path, module in model.named_modules() if isinstance(module, nn.QuantizedLinear)}
    for path, module in modules.items():
        if path in rounded:
            rule = {"bits": module.bits, "group_size": module.group_size, "symmetric": False, "range": chosen_by}
            grid = weight_grid.choose_grid(original[f"{path}.weight"], rule)
            codes = weight_grid.round_to_grid(original[f"{path}.weight"], grid)
        else:
            grid, codes = learned[NAMES[path]].grid, learned[NAMES[path]].codes
        weight = weight_grid.dequantize(codes, grid)
        np.testing.assert_allclose(dequantize_by_mlx(module), weight, rtol=1e-6, atol=1e-6 * np.abs(weight).max())
        x = np.random.default_rng(0).standard_normal((3, weight.shape[1])).astype(np.float32)
        bias = original[f"{path}.bias"].astype(np.float16) if "bias" in module else 0
        expected = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
        np.testing.assert_allclose(np.array(module(mx.array(x))), expected, atol=1e-5 * np.abs(expected).max())
    return modules


def test_codes_come_through_as_they_are_and_plain_mlx_loads_them(scrambled, original):
    scrambled.pack(list_block_names(scrambled))
    learned, packed = read_learned(scrambled), read_packed(scrambled.quantized)
    modules = assert_holds_blocks(load_plainly(scrambled.quantized), learned, packed.config["rounded"], original)
    assert modules.keys() == packed.config["quantization"].keys()
    assert packed.config["rounded"] == []
    assert "final_layer.adaLN_modulation.layers.1" in modules  # of the layers of no block
    sealed = {}
    for path in list_block_names(scrambled):
        sealed |= read_file_seal(path.with_suffix(".json"))["sha256"]["codes"]
    for path, digest in packed.config["codes"].items():
        if path not in packed.config["rounded"]:
            assert digest == digest_codes(packed.tensors[f"{path}.weight"]) == sealed[NAMES[path]]
            nearest = weight_grid.round_to_grid(original[f"{path}.weight"], learned[NAMES[path]].grid)
            assert np.mean(nearest != learned[NAMES[path]].codes) > 0.5


def test_the_loaded_model_denoises_like_the_dequantized_one(finished, original):
    """The whole model: packed, against full precision modules given the dequantized weights."""
    packed, plain = read_packed(finished.quantized), make_empty_model()
    weights = {key: original[key].astype(np.float16).astype(np.float32) for key in original}
    for path, module in load_plainly(finished.quantized).named_modules():
        if isinstance(module, nn.QuantizedLinear):
            weights[f"{path}.weight"] = dequantize_by_mlx(module)
    plain.load_weights([(key, mx.array(value)) for key, value in weights.items()], strict=True)
    cs, cs_pooled = (part[:, 0] for part in embedded.encode_prompts(["a red circle"]))
    x, t = mx.random.normal((1, *embedded.LATENT_SHAPE), key=mx.random.key(0)), mx.array([500.0])
    outputs = []
    for model in (load_plainly(finished.quantized), plain):
        model.cache_modulation_params(cs_pooled, t)
        outputs.append(np.array(model(x, cs[:, :, None], t)))
    assert packed.config["quantization"]
    np.testing.assert_allclose(*outputs, atol=1e-4 * np.abs(outputs[1]).max())


def test_mixed_widths_and_groups_load_from_the_config_alone(study, original):
    rules = [{"layers": "mm_*", "bits": 4}]
    rules += [
        {"layers": f"mm_{i % 5:02d}.{('image', 'text')[i % 2]}.attn.v_proj", "bits": 2 + i, "group_size": size}
        for i, size in enumerate([32, 64, 128, "row", 32, 64, 128])
    ]
    rules += [{"layers": "*_embedder*", "bits": 6, "group_size": 32}, {"layers": "mm_01.*.attn.q_proj", "bits": 16}]
    study.configure(weights=rules)
    study.quantize()
    packed = read_packed(study.quantized)
    modules = assert_holds_blocks(
        load_plainly(study.quantized), read_learned(study), packed.config["rounded"], original
    )
    found = {(module.bits, module.group_size) for module in modules.values()}
    assert {(2, 32), (3, 64), (4, 128), (5, 128), (6, 32), (8, 64), (8, 128), (4, 64)} == found
    # MLX has no 7 bits: the codes are those of 7 and stored in 8.
    assert packed.config["nominal_bits"] == {
        "multimodal_transformer_blocks.0.text_transformer_block.attn.v_proj": 7,
    }
    assert f"{BLOCK_1}.attn.q_proj" not in packed.config["quantization"]


def test_what_no_rule_names_is_kept_as_fp16(finished, original):
    tensors = read_packed(finished.quantized).tensors
    quantized = read_json(finished.quantized / "config.json")["quantization"]
    for key, value in original.items():
        if key.removesuffix(".weight") not in quantized:
            np.testing.assert_array_equal(tensors[key], value.astype(np.float16))
    assert {str(value.dtype) for value in tensors.values()} == {"float16", "uint32"}


def test_bf16_is_stored_as_it_was_rounded_to(study, original):
    study.configure(scale_dtype="bfloat16")
    write_rounded_blocks(study.folder / "adaround", read_json(study.params("optimise_block")), take_random_codes)
    study.pack(list_block_names(study))
    packed, learned = read_packed(study.quantized), read_learned(study)
    stored = mx.load(str(study.quantized / "model.safetensors"))
    assert {value.dtype for value in stored.values()} == {mx.uint32, mx.bfloat16}
    for key, value in original.items():
        if key in stored and stored[key].dtype == mx.bfloat16:
            assert mx.array_equal(stored[key], mx.array(value).astype(mx.bfloat16)), key
    for path, module in load_plainly(study.quantized).named_modules():
        if isinstance(module, nn.QuantizedLinear):
            layer = learned[NAMES[path]]
            weight = weight_grid.dequantize(layer.codes, layer.grid)
            np.testing.assert_allclose(dequantize_by_mlx(module), weight, atol=1e-6 * np.abs(weight).max())
            np.testing.assert_array_equal(packed.tensors[f"{path}.scales"], layer.grid.scales)
    assert packed.config["scale_dtype"] == "bfloat16"


def test_bf16_takes_as_many_bits_as_fp16(finished, study):
    study.configure(scale_dtype="bfloat16")
    study.quantize()
    sizes = [read_packed(one.quantized).config["bits_per_weight"] for one in (finished, study)]
    assert sizes[0] == sizes[1]


def test_blocks_with_another_stored_type_are_rejected(study):
    files = write_rounded_blocks(study.folder / "adaround", read_json(study.params("optimise_block")))
    study.configure(scale_dtype="bfloat16")
    with pytest.raises(UserError, match=r'was made with other rules: .*: scale_dtype: null there, "bfloat16" in'):
        study.pack(files)


def test_sizes_and_shares_are_those_of_the_file(finished, original):
    config, path = read_json(finished.quantized / "config.json"), finished.quantized / "model.safetensors"
    assert config["model"] == {"file": path.name, "sha256": hash_file(path), "bytes": path.stat().st_size}
    counts = {4: 0, 8: 0}
    for place, how in config["quantization"].items():
        counts[how["bits"]] += original[f"{place}.weight"].size
        assert ("adaLN" in place) == (how["bits"] == 8)
    total = sum(value.size for value in original.values())
    # fp16 scale and bias for every 64 weights: half a bit each
    expected = (4.5 * counts[4] + 8.5 * counts[8]) / sum(counts.values())
    assert config["bits_per_weight"] == pytest.approx(expected)
    assert config["quantized_weights"] == sum(counts.values())
    shares = {"4": counts[4] / total, "8": counts[8] / total, "16": 1 - sum(counts.values()) / total}
    assert config["parameters"] == pytest.approx(shares)


def test_a_second_run_gives_the_same_bytes(finished, study):
    study.quantize()
    for name in ("model.safetensors", "config.json"):
        assert (study.quantized / name).read_bytes() == (finished.quantized / name).read_bytes()


@pytest.fixture
def migrated(study):
    """A study with one migrated and one shifted layer."""
    migrate(study)
    return study


def migrate(study):
    """Write the blocks of a study with one migrated and one shifted layer."""
    grids = {FC2: np.array([2] + [1] * 511, np.int32), "mm_00.image.mlp.fc2": np.ones(512, np.int32)}
    inputs = {
        name: InputQuantizer("lut", 8, np.ones(3, np.float32), np.ones(512, np.float32), m) for name, m in grids.items()
    }
    write_rounded_blocks(study.folder / "adaround", read_json(study.params("optimise_block")), inputs=inputs)


def test_stock_mlx_rejects_a_migrated_layer_by_name(migrated):
    migrated.pack(list_block_names(migrated))
    packed = read_packed(migrated.quantized)
    assert packed.config["migrated"] == [f"{BLOCK_1}.mlp.fc2"]
    assert packed.tensors[f"{BLOCK_1}.mlp.fc2.migration"].tolist() == [2] + [1] * 511
    with pytest.raises(ValueError, match=f"{BLOCK_1}.mlp.fc2.migration"):
        load_plainly(migrated.quantized)


UNIFORM = {"weights": [{"layers": "*", "bits": 4, "group_size": 64}]}


def test_the_uniform_layout_rejects_migrated_layers(migrated, tmp_path):
    migrated.configure(**UNIFORM)
    migrate(migrated)
    with pytest.raises(UserError, match=f"uniform-g64 cannot hold migrated weights: {FC2}; "):
        migrated.pack(list_block_names(migrated), tmp_path / "uniform", uniform_g64=True)
    assert not (tmp_path / "uniform").exists()


@pytest.fixture
def load_mmdit(monkeypatch):
    """DiffusionKit's loader of its 4-bit checkpoints, told the embedded sizes and a local file, kept off the net."""
    from diffusionkit.mlx import model_io

    key = "argmaxinc/mlx-stable-diffusion-3.5-large-4bit-quantized"
    sizes = diffusionkit_config.MMDiTConfig(**embedded.TRANSFORMER, dtype=mx.float32)
    monkeypatch.setitem(model_io._CONFIG, key, sizes)
    monkeypatch.setattr(model_io, "hf_hub_download", lambda *_: None)

    def load(path, **options):
        monkeypatch.setattr(model_io, "LOCAl_SD3_CKPT", str(path))
        return model_io.load_mmdit(key, model_key=key, low_memory_mode=False, **options)

    return load


@pytest.fixture
def uniform(study):
    """A study whose blocks hold random codes of 4 bits in groups of 64 for every layer."""
    study.configure(**UNIFORM)
    write_rounded_blocks(study.folder / "adaround", read_json(study.params("optimise_block")), take_random_codes)
    return study


@pytest.mark.slow  # imports transformers
def test_the_uniform_layout_is_that_of_diffusionkit(uniform, load_mmdit, original, caplog):
    caplog.set_level("INFO")
    folder = uniform.folder / "uniform"
    uniform.pack(list_block_names(uniform), folder, uniform_g64=True)
    assert "74 layers quantized; " in caplog.text
    raw, config = read_tensors(folder / "model.safetensors"), read_json(folder / "config.json")
    assert all(key.startswith("model.diffusion_model.") for key in raw)
    model = load_mmdit(folder / "model.safetensors")
    assert config["rounded"] == []
    modules = assert_holds_blocks(model, read_learned(uniform), [], original)
    assert modules.keys() == NAMES.keys()  # every Linear
    assert {(module.bits, module.group_size) for module in modules.values()} == {(4, 64)}
    # What it reads again after its modulation cache has dropped the adaLN layers.
    again = load_mmdit(folder / "model.safetensors", only_modulation_dict=True)
    assert {key for key, _ in again} == {key for key, _ in tree_flatten(model.parameters()) if "adaLN" in key}


def test_the_uniform_layout_is_of_learned_codes_alone(scrambled, tmp_path):
    """The paper's rules give the adaLN layers 8 bits, and leave the embedders as they are."""
    words = (
        r"^17 of 74 layers have no codes .*; --uniform-g64 writes learned codes of 4 bits in groups of 64: use the res"
    )
    with pytest.raises(UserError, match=words):
        scrambled.pack(list_block_names(scrambled), tmp_path / "uniform", uniform_g64=True)
    assert not (tmp_path / "uniform").exists()


def test_searched_bits_are_packed_as_the_blocks_have_them(study, original, tmp_path):
    """Where the rule of a layer and its block's codes differ, the search says which codes these are."""
    chosen = {"bits": 3, "group_size": 128}
    study.configure(weights=[{"layers": "*", "bits": 4}, {"layers": FC2, **chosen}])
    files = write_rounded_blocks(study.folder / "adaround", read_json(study.params("optimise_block")))
    for path in files:  # the blocks' seals have the rules, not what the search chose
        seal = read_file_seal(path.with_suffix(".json"))
        if FC2 in seal["parameters"]["layers"]:
            seal["parameters"]["layers"][FC2]["weight"] |= {"bits": 4, "group_size": 64}
            write_json(path.with_suffix(".json"), make_seal(seal["parameters"], seal["inputs"], seal["sha256"]))
    study.configure(weights=[{"layers": "*", "bits": 4}], bits_per_weight=4.5)
    mixed = tmp_path / "mixed_bits.json"
    write_json(mixed, MIXED | {"mixed": {"layers": {FC2: chosen}}})
    study.pack(files, mixed=mixed)
    config = read_packed(study.quantized).config
    assert config["rounded"] == []
    assert config["quantization"][f"{BLOCK_1}.mlp.fc2"] == {"mode": "affine", **chosen}
    assert_holds_blocks(load_plainly(study.quantized), read_learned(study), [], original)


def test_another_search_than_the_blocks_is_rejected(scrambled, tmp_path):
    """Nothing is rounded to nearest in silence where codes of other widths are asked for."""
    mixed = tmp_path / "mixed_bits.json"
    write_json(mixed, MIXED | {"mixed": {"layers": {FC2: {"bits": 3, "group_size": 64}}}})
    with pytest.raises(
        UserError, match=rf"1 of \d+ layers have no codes .*, {FC2} among them; name the mixed_bits.json"
    ):
        scrambled.pack(list_block_names(scrambled), tmp_path / "packed", mixed=mixed)
    assert not (tmp_path / "packed").exists()
