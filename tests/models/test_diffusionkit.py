"""DiffusionKit's modules load alone, and are the classes of its full package."""

import subprocess
import sys

from taqmlx.models import diffusionkit

HEAVY = ("torch", "transformers", "coremltools", "huggingface_hub", "PIL")


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_modules_load_without_the_pipeline():
    code = (
        "import sys; from taqmlx.models.diffusionkit import clip, config, mmdit, sampler, vae;"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


def test_the_classes_are_those_of_the_full_package():
    before = diffusionkit.mmdit.MMDiT
    package = diffusionkit.load_pipeline_module()
    assert package.mmdit.MMDiT is before
    assert package.DiffusionPipeline.__module__ == "diffusionkit.mlx"
    assert package.ModelSamplingDiscreteFlow is diffusionkit.sampler.ModelSamplingDiscreteFlow
    assert diffusionkit.load_pipeline_module() is package


def test_a_full_package_that_was_imported_first_is_kept():
    code = (
        "from taqmlx.models.diffusionkit import load_pipeline_module; package = load_pipeline_module();"
        "import diffusionkit.mlx; print(diffusionkit.mlx is package)"
    )
    assert run_python(code).strip() == "True"
