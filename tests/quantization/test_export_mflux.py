"""The transformer for mflux has the codes, scales and zero points of the packed weights, under mflux's names."""

import json
import shutil
from argparse import Namespace
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.models.catalogue import find_model
from taqmlx.models.weight_files import FLUX_REPO
from taqmlx.numerics.weight_grid import Grid, dequantize, unpack_codes
from taqmlx.planning import configuration, plan
from taqmlx.planning.mflux_layout import INDEX, list_modules
from taqmlx.planning.stage_groups import ModelOptions
from taqmlx.store import mflux_folder
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file, read_plain_json, write_json, write_plain_json
from taqmlx.store.packed_checkpoint import read_packed
from taqmlx.store.seal import make_seal, read_file_seal
from taqmlx.store.tensors import read_tensors, write_bfloat16
from tools.miniature import cache
from tools.small_results.study import write_rounded_blocks
from workflow_scripts.tools import verify_weights
from workflow_scripts.weights import export_mflux, pack_weights

CONFIG = {
    "model": "flux-schnell",
    "height": 32,
    "width": 32,
    "cfg_scale": 1,
    "evaluation_cfg": 1,
    "engine": "rtn",
    "bits_per_weight": None,
    "scale_dtype": "bfloat16",
    "weights": [
        {"layers": "*", "bits": 4, "range": "absmax"},
        {"layers": "*adaLN_modulation", "bits": 8},
        {"layers": "uni_*.attn.o_proj", "bits": 5, "group_size": 32},
        {"layers": "uni_03.*.mlp.fc2", "bits": 6, "group_size": 128},
        {"layers": "uni_05.unified.attn.o_proj", "bits": 16},
        {"layers": "uni_05.unified.mlp.fc2", "bits": 16},
        {"layers": "y_embedder.mlp.layers.0", "bits": 16},  # the miniature's text has 24 channels
    ],
}
BLOCK = "unified_transformer_blocks.3.transformer_block"
JOINED = "single_transformer_blocks.3.proj_out"


def take_random_codes(weight, grid):
    """Codes that rounding never gives."""
    return np.random.default_rng(weight.size).integers(0, 2**grid.bits, weight.shape).astype(np.uint8)


def make_study(folder, **changes):
    """Packed weights of random codes, by the rules of CONFIG with `changes`, and the parameters of the stage."""
    config = configuration.complete(CONFIG | changes, configuration.load_schema())
    params = folder / "params" / "pack_weights.json"
    write_json(params, plan.select_parameters("pack_weights", config, []))
    parameters = plan.select_parameters("optimise_block", config, [])
    blocks = write_rounded_blocks(folder / "adaround", parameters, take_random_codes)
    quantized = folder / "quantized"
    pack_weights.main(
        Namespace(params=params, blocks=blocks, mixed=None, out_dir=quantized, uniform_g64=False, folds=None)
    )
    return SimpleNamespace(folder=folder, params=params, quantized=quantized, out=folder / "mflux" / "transformer")


def export(study):
    export_mflux.main(Namespace(params=study.params, quantized=study.quantized, out=study.out))


def verify(folder):
    verify_weights.main(Namespace(folder=folder, blocks=None))


@pytest.fixture(scope="module", autouse=True)
def hub(tmp_path_factory):
    """FLUX.1-schnell in miniature, offline."""
    with pytest.MonkeyPatch.context() as patch:
        cache.install(tmp_path_factory.mktemp("hub"), cache.make_files(repo=FLUX_REPO), patch)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished export; not to be changed."""
    study = make_study(tmp_path_factory.mktemp("study"))
    export(study)
    return study


@pytest.fixture(scope="module")
def tensors(study):
    """The tensors of the export by name."""
    index = read_plain_json(study.out / INDEX)["weight_map"]
    return {key: array for name in sorted(set(index.values())) for key, array in read_tensors(study.out / name).items()}


def restore(tensors, path, bits, group_size):
    """The dequantized weight of a layer."""
    grid = Grid(tensors[f"{path}.scales"], tensors[f"{path}.biases"], bits, group_size)
    return dequantize(unpack_codes(tensors[f"{path}.weight"], bits), grid)


def restore_packed(packed, path):
    """The dequantized weight of a layer of the packed checkpoint, or the weight itself."""
    how = packed.config["quantization"].get(path)
    weight = packed.tensors[f"{path}.weight"]
    return restore(packed.tensors, path, how["bits"], how["group_size"]) if how else weight.reshape(len(weight), -1)


def restore_exported(tensors, module, widths):
    """The dequantized weight of a module, its bits and group size told from the shapes as mflux does."""
    if f"{module.path}.scales" not in tensors:
        return tensors[f"{module.path}.weight"]
    inputs = module.shape(widths)[1]
    bits = tensors[f"{module.path}.weight"].shape[1] * 32 // inputs
    return restore(tensors, module.path, bits, inputs // tensors[f"{module.path}.scales"].shape[1])


def test_every_weight_is_the_packed_one_to_the_bit(study, tensors):
    packed, widths = read_packed(study.quantized), read_file_seal(study.out.with_suffix(".json"))["inputs"]["widths"]
    for module in (module for module in list_modules(19, 38) if module.inputs is not None):
        wanted = np.concatenate([restore_packed(packed, path) for path in module.sources], axis=1)
        if module.is_swapped:
            wanted = np.concatenate([wanted[len(wanted) // 2 :], wanted[: len(wanted) // 2]])
        np.testing.assert_array_equal(restore_exported(tensors, module, widths), wanted, err_msg=module.path)


def test_what_is_not_quantized_stays_so(study, tensors):
    names = ("x_embedder", "single_transformer_blocks.5.proj_out", "time_text_embed.text_embedder.linear_1")
    assert all(f"{name}.scales" not in tensors for name in names)
    assert tensors["single_transformer_blocks.5.proj_out.weight"].shape == (64, 320)


def test_codes_of_one_layer_are_the_packed_words(study, tensors):
    packed = read_packed(study.quantized).tensors
    source = "multimodal_transformer_blocks.7.text_transformer_block.mlp.fc1"
    for part in ("weight", "scales", "biases", "bias"):
        np.testing.assert_array_equal(
            tensors[f"transformer_blocks.7.ff_context.linear1.{part}"], packed[f"{source}.{part}"]
        )


def test_joined_layers_have_the_most_bits_and_the_smallest_groups(study, tensors):
    """6 bits in groups of 128 beside 5 in groups of 32: all codes are kept, and scales repeated."""
    packed = read_packed(study.quantized).tensors
    assert tensors[f"{JOINED}.weight"].shape == (64, 320 * 6 // 32)
    assert tensors[f"{JOINED}.scales"].shape == (64, 320 // 32)
    np.testing.assert_array_equal(tensors[f"{JOINED}.scales"][:, :2], packed[f"{BLOCK}.attn.o_proj.scales"])
    np.testing.assert_array_equal(tensors[f"{JOINED}.scales"][:, 2::4], packed[f"{BLOCK}.mlp.fc2.scales"])
    np.testing.assert_array_equal(tensors[f"{JOINED}.bias"], packed[f"{BLOCK}.attn.o_proj.bias"])


def test_biases_of_keys_are_those_of_the_models_file(tensors):
    biases = find_model("flux-schnell", ModelOptions.take(CONFIG)).load_key_biases()
    assert len(biases) == 2 * 19 + 38
    source = "multimodal_transformer_blocks.2.image_transformer_block.attn.k_proj"
    wanted = np.array(biases[source].astype(mx.bfloat16).astype(mx.float32))
    np.testing.assert_array_equal(tensors["transformer_blocks.2.attn.to_k.bias"], wanted)
    assert np.abs(wanted).max() > 0


def test_files_are_numbered_and_say_what_mflux_looks_for(study):
    content = json.loads((study.out / INDEX).read_text())
    assert content["metadata"] == {"quantization_level": "4", "mflux_version": "0.24.0"}
    arrays, metadata = mx.load(str(study.out / "0.safetensors"), return_metadata=True)
    assert {key: metadata[key] for key in content["metadata"]} == content["metadata"]
    assert {array.dtype for array in arrays.values()} == {mx.uint32, mx.bfloat16}
    assert set(content["weight_map"].values()) == {"0.safetensors"}


def test_large_transformers_are_split(study, tmp_path, monkeypatch):
    monkeypatch.setattr(mflux_folder, "SHARD_BYTES", 1_000_000)
    moved = SimpleNamespace(**vars(study) | {"out": tmp_path / "mflux" / "transformer"})
    export(moved)
    shards = sorted(moved.out.glob("*.safetensors"), key=lambda path: int(path.stem))
    assert [path.name for path in shards] == [f"{number}.safetensors" for number in range(len(shards))]
    assert len(shards) > 2
    assert all(path.stat().st_size < 1_100_000 for path in shards)
    assert sum(len(mx.load(str(path))) for path in shards) == len(mx.load(str(study.out / "0.safetensors")))
    verify(moved.out.parent)


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(study, tmp_path, monkeypatch):
    other = SimpleNamespace(**vars(study) | {"out": tmp_path / "mflux" / "transformer"})
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: free)
    with pytest.raises(UserError, match=r"MB are needed and 0\.0 MB are free; make room, or choose a results_dir"):
        export(other)
    assert not list(tmp_path.iterdir())


def test_a_second_run_gives_the_same_bytes(study, tmp_path):
    moved = SimpleNamespace(**vars(study) | {"out": tmp_path / "mflux" / "transformer"})
    export(moved)
    for path in (*study.out.iterdir(), study.out.with_suffix(".json")):
        assert (tmp_path / path.relative_to(study.folder)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale_dtype": "float16"}, "is of float16, and mflux needs bfloat16; set scale_dtype: bfloat16"),
        (
            {"weights": [*CONFIG["weights"], {"layers": "uni_04.*.mlp.fc2", "bits": 16}]},
            r"blocks\.4\..*o_proj and .*fc2 are one layer in mflux, and only one of them is quantized",
        ),
    ],
)
def test_what_mflux_cannot_hold_is_rejected(tmp_path, changes, words):
    study = make_study(tmp_path, **changes)
    with pytest.raises(UserError, match=words):
        export(study)
    assert not study.out.exists()


class TestVerification:
    """mflux passes over all of this in silence."""

    @pytest.fixture
    def copied(self, study, tmp_path):
        """An export to damage."""
        return shutil.copytree(study.out.parent, tmp_path / "mflux")

    def rewrite(self, folder, change):
        """Change the tensors; index and seal vouch for them, so that only the contents can betray it."""
        place, seal = folder / "transformer", read_file_seal(folder / "transformer.json")
        tensors = {key: array.copy() for key, array in read_tensors(place / "0.safetensors").items()}
        change(tensors)
        metadata = read_plain_json(place / INDEX)["metadata"]
        write_bfloat16(place / "0.safetensors", tensors, metadata)
        write_plain_json(place / INDEX, {"metadata": metadata, "weight_map": dict.fromkeys(tensors, "0.safetensors")})
        digests = {f"transformer/{path.name}": hash_file(path) for path in place.iterdir()}
        write_json(folder / "transformer.json", make_seal(seal["parameters"], seal["inputs"], digests))

    def find(self, folder, caplog):
        """What verification lists."""
        with pytest.raises(UserError, match=r"has \d+ faults?, listed above"):
            verify(folder)
        return "\n".join(record.message for record in caplog.records if "fault: " in record.message)

    def test_a_sound_folder_holds(self, study, caplog):
        caplog.set_level("INFO")
        verify(study.out.parent)
        assert "all checks pass: " in caplog.text

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda t: t.pop(f"{JOINED}.scales"), f"{JOINED}.scales is missing"),
            (lambda t: t.pop("norm_out.linear.bias"), "norm_out.linear.bias is missing"),
            (
                lambda t: t.update({"transformer_blocks.0.attn.to_q.lora": np.ones(3, np.float32)}),
                "transformer_blocks.0.attn.to_q.lora: mflux has no such tensor",
            ),
            (
                lambda t: t.update({f"{JOINED}.wieght": t.pop(f"{JOINED}.weight")}),
                f"{JOINED}.wieght: mflux has no such tensor",
            ),
            (
                lambda t: t.update({"x_embedder.weight": t["x_embedder.weight"][:, 1:]}),
                r"x_embedder.weight is [64, 63], not [64, 64]",
            ),
            (
                lambda t: t.update({f"{JOINED}.scales": t[f"{JOINED}.scales"][:, 1:]}),
                "fit no bits and group size for a weight [64, 320]",
            ),
            (
                lambda t: t.update({f"{JOINED}.bias": t[f"{JOINED}.bias"][1:]}),
                f"{JOINED}.bias is [63], not [64]",
            ),
            (lambda t: t[f"{JOINED}.scales"].fill(0), f"{JOINED}.scales: 640 of 640 scales are zero"),
            (
                lambda t: t.update({f"{JOINED}.scales": t[f"{JOINED}.scales"].astype(np.float16)}),
                f"{JOINED}.scales is of the type F16, not BF16",
            ),
        ],
    )
    def test_what_is_wrong_with_a_tensor_is_named(self, copied, caplog, change, words):
        self.rewrite(copied, change)
        assert words in self.find(copied, caplog)

    def test_a_flipped_bit_is_found(self, copied, caplog):
        path = copied / "transformer" / "0.safetensors"
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
        assert "transformer/0.safetensors does not have the sha256 in its seal" in self.find(copied, caplog)

    def test_a_file_of_another_save_is_found(self, copied, caplog):
        shutil.copy(copied / "transformer" / "0.safetensors", copied / "transformer" / "1.safetensors")
        assert "transformer/1.safetensors is not of this transformer" in self.find(copied, caplog)

    def test_a_missing_file_is_named(self, copied):
        (copied / "transformer" / "0.safetensors").unlink()
        with pytest.raises(UserError, match=r"0\.safetensors"):
            verify(copied)
