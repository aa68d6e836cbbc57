"""Reading of parameter files, `<results>/params/*.json`, into the dataclasses of the stages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from taqmlx.planning.stage_groups import Stage
from taqmlx.planning.stages import BLOCK_PARAMETERS, BlockParameters
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json

S = TypeVar("S", bound=Stage)


def read_parameters(kind: type[S], path: Path) -> S:
    """The parameters in the file `path`.

    Raises UserError naming the file if it is absent, was changed, is of another stage or version, or has not exactly
    the keys of `kind` with values of their types.
    """
    content = read_json(path, stage=kind.stage, version=kind.version)
    with name_parameters(path):
        return kind.decode(content)


def read_block_parameters(path: Path, block: str) -> BlockParameters:
    """The parameters of the job of `block`, with the settings of its engine. Raises UserError as `read_parameters`."""
    content = read_json(path, stage=BlockParameters.stage, version=BlockParameters.version, block=block)
    with name_parameters(path):
        if content.get("engine") not in BLOCK_PARAMETERS:
            raise ValueError("engine is missing or unknown")
        return BLOCK_PARAMETERS[content["engine"]].decode(content)


@contextmanager
def name_parameters(path: Path) -> Iterator[None]:
    """Turn a ValueError of the content of `path` into a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(
            f"{path} does not have the parameters of this version ({error}); delete it and run again"
        ) from None
