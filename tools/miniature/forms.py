"""Safetensors files in other forms: with other dtypes, in shards, with additional tensors."""

import json

import torch
from safetensors.torch import load, save


def convert(content, dtype, part=""):
    """The same file with the tensors whose names have `part` in them stored as the torch type `dtype`."""
    return save({name: value.to(dtype) if part in name else value for name, value in load(content).items()})


def join(*contents, **prefixes):
    """One file of the tensors of several; those of the ones in `prefixes` behind `text_encoders.<key>.transformer.`."""
    tensors = {name: value for content in contents for name, value in load(content).items()}
    for key, content in prefixes.items():
        tensors |= {f"text_encoders.{key}.transformer.{name}": value for name, value in load(content).items()}
    return save(tensors)


def scale(content, part):
    """fp8 weights with a scale beside each, as ComfyUI stores them."""
    tensors = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, value in load(content).items():
        tensors[name] = value
        if part in name and name.endswith(".weight"):
            largest = value.float().abs().max() / 448
            tensors[name] = (value.float() / largest).to(torch.float8_e4m3fn)
            tensors[name.removesuffix("weight") + "scale_weight"] = largest
    return save(tensors)


def write_shards(content, place, count=3):
    """Write `place`.index.json, as transformers and diffusers do, and its shards; the paths of these."""
    tensors = load(content)
    shards = [f"{place.stem}-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
    listed = {name: shards[number % count] for number, name in enumerate(sorted(tensors))}
    place.parent.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        own = {name: tensors[name] for name in listed if listed[name] == shard}
        (place.parent / shard).write_bytes(save(own, {"format": "pt"}))
    index = place.with_name(f"{place.name}.index.json")
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": listed}))
    return [place.parent / shard for shard in shards]
