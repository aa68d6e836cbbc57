"""Peak memory of encodings in the store, at the true shapes of Stable Diffusion 3 Medium: 19 MB per prompt.

Writes synthetic encodings of the given number of prompts to a folder, copies them to a calibration set, reads them
back, and prints the peak resident memory in MB after each. It needs twice 19 MB per prompt on the disk.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from taqmlx.runtime.entry import build_parser, run
from taqmlx.store.calibration import PROMPT_ARRAYS, Calibration, list_specs
from taqmlx.store.conditioning import Encoding, open_conditioning, write_conditioning
from taqmlx.store.gather import write_conditions
from taqmlx.store.zarr_arrays import create_group
from tools.benchmarks.gather_memory import read_peak

CS_SHAPE, POOLED = (2, 589, 4096), 2048


def make_encodings(count: int, pooled: int) -> Iterator[Encoding]:
    """Noise that differs from one prompt to the next, quickly made; `pooled` is the width of a text's pooled one."""
    rng = np.random.default_rng(0)
    first = [rng.standard_normal(shape, np.float32) for shape in (CS_SHAPE, (2, pooled))]
    for index in range(count):
        yield tuple(part + np.float32(index) for part in first)


def main(arguments: argparse.Namespace) -> None:
    count, folder = arguments.prompts, arguments.folder
    path, parameters = folder / "conditioning.safetensors", {"prompts": [str(index) for index in range(count)]}
    write_conditioning(path, parameters, {}, make_encodings(count, POOLED))
    print("written", round(read_peak()), flush=True)
    specs = list_specs(1, (32, 32, 16), (count, *CS_SHAPE), (count, 2, POOLED))
    group, specs = folder / "calibration.zarr", {name: specs[name] for name in PROMPT_ARRAYS}
    create_group(group, list(specs.values()))
    write_conditions(open_conditioning(path, {}), count, group, specs)
    print("copied", round(read_peak()), flush=True)
    read = Calibration(group, {}, specs).bind_conditions()
    for index in range(count):
        read(np.array([index]))
    print("read", round(read_peak()), flush=True)


if __name__ == "__main__":
    parser = build_parser(__doc__, "folder")
    parser.add_argument("--prompts", type=int, default=1000, help="default: %(default)s")
    run(main, parser)
