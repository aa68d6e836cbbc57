"""A miniature FLUX.1-schnell taken through the workflow once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from taqmlx.models.weight_files import FLUX_REPO
from tests.support.warm import start_warm_python
from tools.miniature import cache
from tools.miniature.run import Run, surround


@contextmanager
def run_flux(tmp_path_factory: pytest.TempPathFactory, *targets: str, **config: Any) -> Iterator[Run]:
    """The run of `targets`, every job once, with the model's files at hand for this process."""
    with pytest.MonkeyPatch.context() as patch:
        hub = tmp_path_factory.mktemp("hub")
        cache.install(hub, cache.make_files(repo=FLUX_REPO), patch)
        with start_warm_python(Path(), surround(hub)) as python:
            run = Run(tmp_path_factory.mktemp("miniature"), hub, python, **config)
            run.make(*targets)
            yield run
