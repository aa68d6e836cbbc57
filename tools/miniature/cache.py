"""The miniature as a Hub cache (blobs named by their sha256, links, a branch) or as a plain folder."""

import hashlib
import json

import numpy as np
from huggingface_hub import constants
from safetensors.numpy import save

from taqmlx.models.weight_files import (
    AUTOENCODERS,
    CHECKPOINT_REPO,
    FLUX_REPO,
    LARGE_REPO,
    T5_REPO,
    TEXT_NAMES,
    TEXT_REPO,
    TRANSFORMERS,
    WeightFile,
)
from tools.miniature import layout, sizes, vocabulary

COMMIT = "1234567890abcdef1234567890abcdef12345678"


def draw_weight(rng, name, shape):
    """A random fp16 weight, as large as a trained one; the gains of norms near 1."""
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 0
    value = rng.standard_normal(shape) * (fan_in**-0.5 if fan_in else 0.1)
    is_gain = len(shape) == 1 and name.endswith(("weight", "scale"))
    return (value + is_gain).astype(np.float16)


def draw_weights(shapes, seed):
    """Random weights of these shapes by name."""
    rng = np.random.default_rng(seed)
    return {name: draw_weight(rng, name, shape) for name, shape in shapes.items()}


# The tensors of the files with a transformer or an autoencoder in them.
TENSORS = {
    TRANSFORMERS[CHECKPOINT_REPO]: lambda: layout.list_stable_diffusion(24, False) | layout.list_autoencoder(),
    TRANSFORMERS[LARGE_REPO]: lambda: layout.list_stable_diffusion(38, True) | layout.list_autoencoder(),
    TRANSFORMERS[FLUX_REPO]: lambda: layout.list_flux(19, 38),
    AUTOENCODERS[FLUX_REPO]: lambda: layout.list_autoencoder(prefix=""),
}


def make_files(seed=0, repo=CHECKPOINT_REPO):
    """The bytes of every file of a model and of all text encoders, by its `WeightFile`."""
    vocab, merges = vocabulary.make_byte_pairs()
    contents = {
        "t5": save(draw_weights(layout.list_t5(), seed + 1)),
    }
    for index, name in enumerate(("clip_l", "clip_g")):
        described = sizes.describe_clip(name, len(vocab))
        contents[f"{name}_config"] = json.dumps(described).encode()
        contents[name] = save(draw_weights(layout.list_clip(described), seed + 2 + index))
        contents[f"tokenizer_{name[-1]}_vocab"] = json.dumps(vocab).encode()
        contents[f"tokenizer_{name[-1]}_merges"] = "\n".join(merges).encode()
    own = dict.fromkeys([TRANSFORMERS[repo], AUTOENCODERS[repo]])
    tokenizer = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "model_max_length": 512}
    return {
        **{file: save(draw_weights(TENSORS[file](), seed)) for file in own},
        WeightFile(repo, "config.json"): b"{}",
        **{WeightFile(TEXT_REPO, name): contents[key] for key, name in TEXT_NAMES.items()},
        WeightFile(T5_REPO, "config.json"): json.dumps(sizes.T5).encode(),
        WeightFile(T5_REPO, "spiece.model"): vocabulary.make_sentence_pieces(),
        WeightFile(T5_REPO, "tokenizer_config.json"): json.dumps(tokenizer).encode(),
    }


def write_cache(folder, files):
    """Write `files` as the Hub's client would have stored them."""
    for file, content in files.items():
        repo = folder / f"models--{file.repo.replace('/', '--')}"
        blob = repo / "blobs" / hashlib.sha256(content).hexdigest()
        link = repo / "snapshots" / COMMIT / file.name
        for place in (blob, link, repo / "refs" / "main"):
            place.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(blob)
        (repo / "refs" / "main").write_text(COMMIT)


def write_folder(folder, files):
    """Write `files` as a local folder."""
    for file, content in files.items():
        if file.repo == T5_REPO or file.name != "config.json":
            (folder / file.local_name).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.local_name).write_bytes(content)


def install(folder, files, monkeypatch):
    """Make `folder` the Hub's cache, with `files` and no network, and DiffusionKit's sizes the miniature's."""
    write_cache(folder, files)
    use(folder, monkeypatch)


def use(folder, monkeypatch):
    """Make `folder` the Hub's cache, without network, and DiffusionKit's sizes the miniature's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    sizes.shrink(monkeypatch)
