"""Feature networks with local weights: their layout, their preprocessing, and rejected files."""

import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from taqmlx.evaluation.clip_features import ClipFeatures
from taqmlx.evaluation.inception import Inception, InceptionFeatures, resize_as_tensorflow
from taqmlx.evaluation.lpips import AlexNet, Lpips, prepare
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file


def draw_pictures(count, size=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def save(path, module, **surplus):
    torch.save(module.state_dict() | surplus, path)
    return {"path": str(path), "sha256": hash_file(path)}


class TestInception:
    def test_has_the_weights_of_the_published_network(self):
        state = Inception().state_dict()
        assert sum(name.endswith("conv.weight") for name in state) == 94
        assert sum(value.numel() for value in Inception().parameters()) == 21_785_568
        assert state["Mixed_6c.branch7x7dbl_2.conv.weight"].shape == (160, 160, 7, 1)
        assert state["Mixed_7b.branch3x3dbl_3a.conv.weight"].shape == (384, 384, 1, 3)

    def test_reads_a_file_with_more_than_the_features_need(self, tmp_path):
        torch.manual_seed(0)
        source = save(tmp_path / "inception.pth", Inception(), **{"fc.weight": torch.zeros(1008, 2048)})
        features = InceptionFeatures(source)
        found = features([Image.fromarray(picture) for picture in draw_pictures(2)])
        assert found.shape == (2, 2048)
        assert features.about["weights_sha256"] == source["sha256"]

    def test_rejects_a_file_of_another_network(self, tmp_path):
        with pytest.raises(UserError, match="inception: the file lacks the weights"):
            InceptionFeatures(save(tmp_path / "alexnet.pth", AlexNet()))

    @pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
    def test_rejects_weights_that_need_decoding(self, tmp_path, dtype):
        name = "Mixed_7b.branch1x1.conv.weight"
        coded = {name: Inception().state_dict()[name].to(dtype)}
        with pytest.raises(UserError, match=f"^inception: the file stores {name} as {dtype}"):
            InceptionFeatures(save(tmp_path / "inception.pth", Inception(), **coded))

    def test_resizes_from_corners(self):
        picture = draw_pictures(1, 5)[0]
        found = resize_as_tensorflow(picture, 12)[0].permute(1, 2, 0).numpy()
        for row in range(12):
            for column in range(12):
                (y, b), (x, a) = (divmod(place * 5 / 12, 1) for place in (row, column))
                (top, left), (low, right) = (int(y), int(x)), (min(int(y) + 1, 4), min(int(x) + 1, 4))
                expected = (1 - b) * ((1 - a) * picture[top, left] + a * picture[top, right])
                expected = expected + b * ((1 - a) * picture[low, left] + a * picture[low, right])
                np.testing.assert_allclose(found[row, column], expected, atol=1e-3)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("kind", ["pickle", "archive", "compressed", "list", "words", "pipe"])
def test_a_weight_file_runs_no_code_and_takes_bounded_memory(tmp_path, kind):
    path, trap = tmp_path / "x.pth", tmp_path / "trap"
    if kind == "compressed":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data/0", bytes(1 << 26))
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        saved = {"pickle": Trap(trap), "archive": {"a": Trap(trap)}, "list": [1, 2], "words": {"features.0.bias": "x"}}[
            kind
        ]
        torch.save(saved, path, _use_new_zipfile_serialization=kind != "pickle")
    source = {"path": str(path), "sha256": "0" * 64 if kind == "pipe" else hash_file(path)}
    with pytest.raises(UserError, match=r"^lpips: .*(holds no PyTorch weights|lacks the weights|is missing)"):
        Lpips(source)
    assert not trap.exists()


class TestLpips:
    @pytest.fixture
    def lpips(self, tmp_path):
        torch.manual_seed(0)
        return Lpips(save(tmp_path / "alexnet.pth", AlexNet(), **{"classifier.6.bias": torch.zeros(1000)}))

    def test_is_zero_for_equal_pictures_and_symmetric(self, lpips):
        pictures, other = draw_pictures(3), draw_pictures(3, seed=1)
        assert lpips(pictures, pictures) == pytest.approx(np.zeros(3))
        assert lpips(pictures, other) == pytest.approx(lpips(other, pictures))
        assert (lpips(pictures, other) > 0).all()

    def test_is_the_sum_over_layers(self, lpips):
        pair = [draw_pictures(1), draw_pictures(1, seed=1)]
        expected = 0.0
        taps = [lpips.network(prepare(picture)) for picture in pair]
        for weight, x, y in zip(lpips.weights, *taps, strict=True):
            difference = (x[0] - y[0]).numpy() ** 2  # (c, h, w)
            expected += np.tensordot(weight.numpy()[0, :, 0, 0], difference, 1).mean()
        assert lpips(*pair)[0] == pytest.approx(expected, rel=1e-5)


class TestClip:
    def test_gives_unit_vectors_from_a_local_folder(self, tmp_path):
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = CLIPVisionConfig(**sizes, image_size=32, patch_size=16, projection_dim=8)
        CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
        features = ClipFeatures(str(tmp_path))
        found = features([Image.fromarray(picture) for picture in draw_pictures(3)])
        assert found.shape == (3, 8)
        np.testing.assert_allclose(np.square(found).sum(axis=1), 1, rtol=1e-5)
        assert features.about["resize"] == "Pillow, bicubic, to 32 x 32"

    @pytest.mark.parametrize(
        ("changes", "words"),
        [({"image_size": 4096}, "takes pictures of 4096 pixels"), ({"num_hidden_layers": 3}, "lacks the weights")],
    )
    def test_rejects_what_would_take_memory_or_be_drawn_at_random(self, tmp_path, changes, words):
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = CLIPVisionConfig(**sizes | {"image_size": 32, "patch_size": 16, "projection_dim": 8} | changes)
        network = CLIPVisionModelWithProjection(config)
        network.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if ".layers.2." not in name}
        save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=words):
            ClipFeatures(str(tmp_path))

    def test_rejects_weights_that_need_decoding(self, tmp_path):
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        network = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, image_size=32, patch_size=16))
        network.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        tensors["visual_projection.weight"] = tensors["visual_projection.weight"].to(torch.float8_e4m3fn)
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=r"^clip: .* stores visual_projection\.weight as F8_E4M3"):
            ClipFeatures(str(tmp_path))

    def test_reads_no_pickle_beside_a_safetensors_file(self, tmp_path):
        CLIPVisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
        save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", {"format": "pt"})
        torch.save({"a": Trap(tmp_path / "trap")}, tmp_path / "pytorch_model.bin")
        with pytest.raises(UserError, match="has no CLIP vision model"):
            ClipFeatures(str(tmp_path))
        assert not (tmp_path / "trap").exists()

    def test_rejects_a_folder_of_something_else(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(UserError, match="is not a complete safetensors file"):
            ClipFeatures(str(tmp_path))
