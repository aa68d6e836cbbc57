"""DiffusionKit's own modules, imported in a fraction of a second.

`diffusionkit/mlx/__init__.py` imports its pipeline, and with it torch, transformers and Core ML tools, which takes
seconds and is not needed to run a transformer. Here the package exists with its real path but its `__init__` has not
run, so `mmdit`, `vae`, `clip`, `config` and `sampler` load alone. `load_pipeline_module` runs it on the same module
object, so both ways give the same classes.

DiffusionKit imports three names from `argmaxtools`: a logger and two empty base classes.
"""

import importlib
import importlib.util
import logging
import os
import sys
from types import ModuleType

import mlx.core as mx

PACKAGE = "diffusionkit.mlx"
ARGMAXTOOLS = {
    "argmaxtools": {"__path__": []},
    "argmaxtools.utils": {"get_logger": logging.getLogger},
    "argmaxtools.test_utils": {
        "AppleSiliconContextMixin": type("AppleSiliconContextMixin", (), {}),
        "InferenceContextSpec": type("InferenceContextSpec", (), {}),
    },
}


def provide_argmaxtools() -> None:
    """Register the three names under `argmaxtools`, unless the real package is already imported."""
    if "argmaxtools" in sys.modules:
        return
    for name, contents in ARGMAXTOOLS.items():
        module = ModuleType(name, "The part of argmaxtools that DiffusionKit uses.")
        vars(module).update(contents)
        sys.modules[name] = module


def provide_memory_size() -> None:
    """Make `mx.metal.device_info` report the memory size as on a Mac, for DiffusionKit's T5."""
    if not mx.metal.is_available():
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        mx.metal.device_info = lambda: {"memory_size": size}


def create_package() -> ModuleType:
    """Return the `diffusionkit.mlx` package: as imported, else with its path set and its `__init__` not run."""
    if PACKAGE not in sys.modules:
        provide_argmaxtools()
        spec = importlib.util.find_spec(PACKAGE)
        package = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = package
        importlib.import_module("diffusionkit").mlx = package
    return sys.modules[PACKAGE]


def load_pipeline_module() -> ModuleType:
    """Return the complete `diffusionkit.mlx` with `DiffusionPipeline`, `CFGDenoiser` and `sample_euler`; takes seconds.

    Raises ImportError if torch, transformers or another package of the pipeline is not installed.
    """
    package = create_package()
    if not hasattr(package, "DiffusionPipeline"):
        package.__spec__.loader.exec_module(package)
    return package


def load_model_io() -> ModuleType:
    """Return `diffusionkit.mlx.model_io`, the loaders; takes a second because it imports transformers."""
    provide_memory_size()
    return importlib.import_module(f"{PACKAGE}.model_io")


create_package()

from diffusionkit.mlx import clip, config, mmdit, sampler, vae  # noqa: E402

__all__ = ["clip", "config", "load_model_io", "load_pipeline_module", "mmdit", "sampler", "vae"]
