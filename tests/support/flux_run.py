"""A miniature FLUX.1-schnell taken through the workflow once in a session, in the layout of mflux."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from taqmlx.models.weight_files import FLUX_REPO
from tests.support.sharing import make_once
from tests.support.warm import start_warm_python
from tools.miniature import cache
from tools.miniature.run import FLUX, Run, surround

_PLAIN = {"range": "absmax"}  # a search of ranges is most of the work at this scale
CONFIG = FLUX | {
    "layout": "mflux",
    "scale_dtype": "bfloat16",
    "engine": "gptq",
    "distil": "scales",
    # Of few inputs, as a search takes time.
    "folds": [{"layers": "mm_00.*", "kind": "scale"}, {"layers": "uni_00.*", "kind": "permutation"}],
    "weights": [
        {"layers": "*", "bits": 4} | _PLAIN,
        {"layers": "*adaLN_modulation", "bits": 8} | _PLAIN,
        {"layers": "uni_*.attn.o_proj", "bits": 6, "group_size": 32} | _PLAIN,
        {"layers": "y_embedder.mlp.layers.0", "bits": 16},  # 24 inputs in the miniature
        {"layers": "uni_37.*", "bits": 16},
    ],
}


@contextmanager
def run_flux(factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The run, every job once, and the model's files at hand for this process. Its results are not to be changed."""
    folder = make_once(factory, "flux", make_flux)
    with pytest.MonkeyPatch.context() as patch:
        cache.use(folder / "hub", patch)
        yield Run(folder, folder / "hub", **CONFIG)


def make_flux(folder: Path) -> None:
    """The model's files in `folder`/hub, and what the workflow makes of them."""
    hub = folder / "hub"
    cache.write_cache(hub, cache.make_files(repo=FLUX_REPO))
    with start_warm_python(Path(), surround(hub)) as python:
        Run(folder, hub, python, **CONFIG).make("quant_config", "mflux", "verify_dataset")
