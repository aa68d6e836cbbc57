"""Export the calibration set in the original flat format: one `.npz` file that `np.load` reads without pickle.

Keys: xs (points, h, w, c) fp16; ts (points,) in the model's precision; prompt_indices (points,); cs (prompts, 2,
tokens, width); cs_pooled (prompts, 2, width); prompts (prompts,) text; cfg_scale, a number.
"""

import argparse
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.calibration import FLAT_ARRAYS, Calibration, list_attributes, open_calibration
from taqmlx.store.checksum_files import checksummed
from taqmlx.store.files import write_atomically

EPOCH = (1980, 1, 1, 0, 0, 0)  # fixed date, so that equal sets give equal bytes


def main(arguments: argparse.Namespace) -> None:
    calibration = open_calibration(arguments.calibration)
    calibration.verify()
    with checksummed(arguments.out):
        write_atomically(arguments.out, lambda partial: write_npz(partial, calibration))
    log.info(f"exported {calibration.specs['xs'].shape[0]} points: {arguments.out}")


def write_npz(path: Path, calibration: Calibration) -> None:
    """Write the archive with one chunk in memory at a time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in FLAT_ARRAYS:
            spec = calibration.specs[name]
            write_member(archive, name, spec.shape, np.dtype(spec.dtype), calibration.iterate_chunks(name))
        for name, value in list_attributes(calibration.seal["parameters"]).items():
            array = np.array(value)
            write_member(archive, name, array.shape, array.dtype, [array])


def write_member(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype, parts: Iterable[np.ndarray]
) -> None:
    """Add the array `name`, given as consecutive parts along its first axis."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.tobytes())


if __name__ == "__main__":
    run(main, build_parser(__doc__, "calibration", "out"))
