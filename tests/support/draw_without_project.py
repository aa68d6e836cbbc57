"""Draw three pictures with DiffusionKit and a folder's own load_quantized.py, in a Python without this project.

    python -S draw_without_project.py ARGUMENTS.json

The arguments: `packages`, the folder of installed packages, whose .pth files `-S` leaves unread; `folder`, the packed
weights; `sizes`, what the miniature's transformer has in place of SD3's; `autoencoder`, its decoder's; and for the
pictures `prompt`, `negative`, `steps`, `cfg`, `shape`, `seed`; `out`, a .npz for the their latents.
"""

import json
import logging
import os
import sys
import types
from dataclasses import replace
from functools import partial
from pathlib import Path

given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
sys.path = [place for place in sys.path if place and Path(place) != Path(__file__).parent]
sys.path += [given["packages"], given["folder"]]

# DiffusionKit takes these from a package and from a GPU that Linux has not.
parts = {"utils": {"get_logger": logging.getLogger}, "test_utils": {}}
parts["test_utils"] |= {name: type(name, (), {}) for name in ("AppleSiliconContextMixin", "InferenceContextSpec")}
sys.modules["argmaxtools"] = types.ModuleType("argmaxtools")
for name, content in parts.items():
    module = types.ModuleType(f"argmaxtools.{name}")
    vars(module).update(content)
    sys.modules[module.__name__] = module
import mlx.core as mx  # noqa: E402

if not mx.metal.is_available():
    mx.metal.device_info = lambda: {"memory_size": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}

import numpy as np  # noqa: E402
from diffusionkit.mlx import DiffusionPipeline, config, model_io  # noqa: E402
from load_quantized import load_quantized  # noqa: E402

model_io._CONFIG[model_io._DEFAULT_MMDIT] = replace(config.SD3_2b, **given["sizes"])
for name in ("VAEDecoderConfig", "VAEEncoderConfig"):
    setattr(model_io, name, partial(getattr(config, name), **given["autoencoder"]))

pipeline = DiffusionPipeline(shift=3.0, low_memory_mode=False)
load_quantized(pipeline, given["folder"])
kept, denoise = [], pipeline.denoise_latents


def denoise_and_keep(*arguments, **options):
    kept.append(denoise(*arguments, **options))
    return kept[-1]


pipeline.denoise_latents = denoise_and_keep
for seed in (given["seed"], given["seed"] + 1, given["seed"] + 2):
    if seed == given["seed"] + 2:
        del pipeline.mmdit  # what low-memory mode does after each picture
    pipeline.generate_image(
        given["prompt"], given["steps"], given["cfg"], given["negative"], given["shape"], seed, verbose=False
    )
assert not any(name.split(".")[0] in ("taqmlx", "tools", "tests") for name in sys.modules)
np.savez(given["out"], *(np.array(pipeline.latent_format.process_in(latents)) for latents, _ in kept))
