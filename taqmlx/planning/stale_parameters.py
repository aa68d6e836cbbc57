"""Parameter files that hold other values than the configuration.

Snakemake rewrites them by its record of the last run. Results that were copied or moved have no record.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from taqmlx.planning import ablation, block_plan, plan, variants
from taqmlx.planning.plain_files import read_plain_json


def find_stale(results: Path, config: plan.Parameters, prompts: Sequence[str]) -> Iterator[Path]:
    """Yield the parameter files in `results` whose content differs from what `config` and `prompts` give.

    An unreadable file differs. A file that `config` has no use for, such as one of a removed block, is left out.
    """
    folder = results / "params"
    for path in sorted(folder.rglob("*.json")):
        wanted = None
        with suppress(KeyError, ValueError):  # what is not of this configuration
            wanted = expect(path.relative_to(folder), config, prompts)
        if wanted is not None and read_fingerprint(path) != plan.fingerprint(wanted):
            yield path


def expect(place: Path, config: plan.Parameters, prompts: Sequence[str]) -> plan.Parameters:
    """The content of the parameter file at `place` in `params/`. Raises KeyError or ValueError if it has no use."""
    name = place.stem
    match place.parts[:-1]:
        case ():
            return plan.select_parameters(name, config, prompts)
        case ("optimise_block",):
            return expect_block(config, name)
        case ("ladder", rung):
            return expect_block(variants.change(config, rung), name)
        case ("evaluation",):
            return plan.select_parameters(name, config, prompts)
        case ("ablation",):
            return plan.select_parameters(name, ablation.change(config), prompts)
        case ("frontier", size):
            return plan.select_parameters(name, config | {"bits_per_weight": float(size)}, prompts)
        case ("frontier", size, "blocks"):
            return expect_block(config | {"bits_per_weight": float(size)}, name)
    raise KeyError(place)


def expect_block(config: plan.Parameters, block: str) -> plan.Parameters:
    """Parameters of a block's job. Raises ValueError if the model has no such block."""
    if block not in plan.list_block_names(config["model"]):
        raise ValueError(block)
    return block_plan.select_block(plan.select_parameters("optimise_block", config, []), block)


def read_fingerprint(path: Path) -> str | None:
    """Fingerprint of the parameters in a file, without their checksum; None if it is unreadable."""
    try:
        return plan.fingerprint({key: value for key, value in read_plain_json(path).items() if key != "checksum"})
    except (OSError, ValueError, AttributeError):
        return None
