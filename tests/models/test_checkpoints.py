"""Dtypes, names and shapes of a checkpoint's tensors are checked before use, and exact formats are accepted."""

import itertools

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten
from safetensors.torch import load, save

from taqmlx.models.sd3 import fetch_files
from taqmlx.models.weight_files import CHECKPOINT, CHECKPOINT_REPO, TEXT_NAMES, TEXT_REPO, WeightFile
from taqmlx.store.errors import UserError
from tests.models.test_sd3 import create, draw, measure_error
from tools.miniature import cache, forms

CLIP_L, CLIP_G, T5 = (WeightFile(TEXT_REPO, TEXT_NAMES[name]) for name in ("clip_l", "clip_g", "t5"))
# A file, the tensors that are stored otherwise, and what reads them.
PARTS = {
    "transformer": (CHECKPOINT, "diffusion_model", lambda model: model.load_transformer()),
    "decoder": (CHECKPOINT, "first_stage_model.decoder", lambda model: model.load_decoder()),
    "clip_l": (CLIP_L, "text_model", lambda model: model.encode_prompts(["a"])),
    "clip_g": (CLIP_G, "mlp.fc1.weight", lambda model: model.encode_prompts(["a"])),
    "t5": (T5, "", lambda model: model.encode_prompts(["a"])),
}
CODED = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I8": torch.int8, "U8": torch.uint8}
CODED |= {"F64": torch.float64, "BOOL": torch.bool, "I64": torch.int64}
DRAWN = ["a red circle on the table", "a photo of a tabby cat 2"]


@pytest.fixture
def install(tmp_path, miniature_files, monkeypatch):
    """`install({file: content})`: a Hub cache with the miniature, these files otherwise."""
    numbers = itertools.count()
    return lambda changes: cache.install(tmp_path / f"hub{next(numbers)}", miniature_files | changes, monkeypatch)


def refuse(action):
    """The two lines of its rejection."""
    with pytest.raises(UserError) as caught:
        action()
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    return lines


def fetch(weights_from=CHECKPOINT_REPO):
    return fetch_files("sd3-medium", str(weights_from), True)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", CODED)
def test_a_type_that_needs_decoding_is_rejected_by_name(install, miniature_files, part, kind):
    file, names, load_part = PARTS[part]
    install({file: forms.convert(miniature_files[file], CODED[kind], names)})
    changed_names = {name for name in load(miniature_files[file]) if names in name}
    for action in (fetch, lambda: load_part(create())):
        line, command = refuse(action)
        assert line.partition("it stores ")[2].split()[0] in changed_names
        assert f" as {kind}, and F16, BF16, F32 are read" in line
        assert file.name in line
        assert command.strip() == f"hf download {file.repo} {file.name} --force-download"


@pytest.mark.parametrize("part", PARTS)
def test_fp8_with_scales_is_rejected_by_name(install, miniature_files, part):
    file, names, load_part = PARTS[part]
    install({file: forms.scale(miniature_files[file], names)})
    for action in (fetch, lambda: load_part(create())):
        line, _ = refuse(action)
        assert "is a file of quantized weights with scales beside them" in line
        assert "use the weights in fp16, bf16 or fp32" in line
        assert "F8_E4M3" in line


def test_every_float_dtype_gives_the_same_picture(install, miniature_files):
    """On values that all three types have; the encodings, too."""
    bounded = {file: round_weights(miniature_files[file]) for file in (CHECKPOINT, CLIP_L, CLIP_G, T5)}
    results = {}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        install({file: forms.convert(content, dtype) for file, content in bounded.items()})
        fetch()
        model = create()
        cs, cs_pooled = model.encode_prompts(DRAWN[:1])
        latents = draw(model, cs, cs_pooled)
        results[dtype] = cs, latents, mx.array(model.decode_latents(model.load_decoder(), latents))
    for dtype in (torch.bfloat16, torch.float32):
        errors = [measure_error(a, b) for a, b in zip(results[dtype], results[torch.float16], strict=True)]
        print(dtype, errors)
        assert max(errors) <= 1e-6


def round_weights(content):
    """Values that fp16 and bf16 both have: of 8 bits, none tiny."""
    tensors = {name: value.to(torch.bfloat16).float() for name, value in load(content).items()}
    return save({name: torch.where(value.abs() < 2**-14, 0, value).half() for name, value in tensors.items()})


def test_unused_coded_tensors_are_accepted(install, miniature_files):
    install({CHECKPOINT: forms.convert(miniature_files[CHECKPOINT], torch.float8_e4m3fn, "first_stage_model.encoder")})
    fetch()
    install({CHECKPOINT: forms.convert(miniature_files[CHECKPOINT], torch.float8_e5m2, "first_stage_model.encoder")})
    assert "it stores first_stage_model.encoder." in (line := refuse(fetch)[0])
    assert "as F8_E5M2" in line


def parameters(model):
    return dict(tree_flatten(model.load_transformer().parameters()))


def test_a_file_that_contains_text_encoders_is_accepted(miniature, miniature_files, tmp_path):
    """As those that Stability AI published: with both CLIP models, and T5 in fp8."""
    fp8 = forms.convert(miniature_files[T5], torch.float8_e4m3fn)
    inside = {"clip_l": miniature_files[CLIP_L], "clip_g": miniature_files[CLIP_G], "t5xxl": fp8}
    path = tmp_path / "sd3_medium_incl_clips_t5xxlfp8.safetensors"
    path.write_bytes(forms.join(miniature_files[CHECKPOINT], **inside))
    fetch(path)
    found, wanted = parameters(create(path)), parameters(create())
    assert all(mx.array_equal(found[name], wanted[name]) for name in wanted)
    decoder, latents = create(path).load_decoder(), mx.random.normal((1, 8, 12, 16), key=mx.random.key(0))
    assert np.array_equal(
        create(path).decode_latents(decoder, latents), create().decode_latents(create().load_decoder(), latents)
    )


def test_shards_are_accepted(miniature, miniature_files, tmp_path):
    index = tmp_path / "mine.safetensors.index.json"
    shards = forms.write_shards(miniature_files[CHECKPOINT], tmp_path / "mine.safetensors")
    assert all(shard.is_file() for shard in shards)
    fetch(index)
    found, wanted = parameters(create(index)), parameters(create())
    assert all(mx.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_sharded_text_encoder_is_accepted(miniature, miniature_files, tmp_path):
    folder = tmp_path / "folder"
    cache.write_folder(folder, {file: content for file, content in miniature_files.items() if file != T5})
    shards = forms.write_shards(miniature_files[T5], folder / T5.local_name)
    fetch(folder)
    model = create(folder)
    assert mx.array_equal(model.encode_prompts(DRAWN)[0], create().encode_prompts(DRAWN)[0])
    names = {f"t5/{shard.name}" for shard in shards} | {"t5/t5xxl.safetensors.index.json"}
    assert names <= set(model.file_digests())
    shards[1].unlink()
    with pytest.raises(UserError, match=f"lacks {shards[1].name}, which .*; put all 3 shards there"):
        fetch(folder)


@pytest.mark.parametrize(
    "text", ["[]", '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}', '{"weight_map": {"a": 1}}']
)
def test_a_file_that_is_not_an_index_is_rejected(miniature, tmp_path, text):
    (tmp_path / "x.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.safetensors\.index\.json is not an index of shards"):
        fetch(tmp_path / "x.safetensors.index.json")


def test_a_single_shard_is_rejected_by_name(miniature, miniature_files, tmp_path):
    shards = forms.write_shards(miniature_files[CHECKPOINT], tmp_path / "mine.safetensors")
    line, _ = refuse(lambda: fetch(shards[0]))
    assert "is one shard of a checkpoint; name its index, *.safetensors.index.json" in line


@pytest.mark.parametrize("file", [CLIP_L, CLIP_G, T5])
def test_a_text_encoder_with_missing_or_misshapen_tensors_is_rejected(install, miniature_files, file):
    """DiffusionKit would fill the gap with random numbers."""
    tensors = load(miniature_files[file])
    name = next(name for name in tensors if name.endswith(("mlp.fc1.weight", "wi_0.weight")))
    value = tensors.pop(name)
    for changed, words in (
        (tensors, "it lacks 1 of DiffusionKit's tensors ("),
        (tensors | {name: value[:-1].clone()}, "it has 1 of other shapes ("),
        (tensors | {name: value, "stray.weight": value[:1].clone()}, "it has 1 surplus ones (stray.weight)"),
    ):
        install({file: save(changed)})
        for action in (fetch, lambda: create().encode_prompts(["a"])):
            assert words in refuse(action)[0]


def test_unused_tensors_of_an_encoder_are_ignored(install, miniature_files):
    """Positions and a scale of CLIP, whole numbers; T5's decoder; its table under one of two names."""
    wanted = None
    clip = load(miniature_files[CLIP_L]) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    t5 = load(miniature_files[T5])
    t5["shared.weight"] = t5["encoder.embed_tokens.weight"].clone()
    unread = {"decoder.final_layer_norm.weight": torch.ones(8), "lm_head.weight": torch.ones(8)}
    for dropped in (None, "shared.weight", "encoder.embed_tokens.weight"):
        stored = {name: value for name, value in t5.items() if name != dropped} | unread
        install({CLIP_L: save(clip | {"logit_scale": torch.ones(1)}), T5: save(stored)})
        fetch()
        found = create().encode_prompts(DRAWN)[0]
        wanted = found if wanted is None else wanted
        assert mx.array_equal(found, wanted)
