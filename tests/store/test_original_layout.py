"""Samples and latents in the original layout: no pickle, and bounded memory."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.original_layout import Sample, read_latents, read_sample, write_latents, write_sample

X = np.arange(64, dtype=np.float32).reshape(2, 2, 16)


def save(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def head(shape):
    """A `.npy` file that says it is of `shape`, and has nothing."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def write_member(path, content, name="x.npy"):
    write_sample(path, Sample(X, 1000.0, 1.0, 0, 0, False))
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in (members | {name: content}).items():
            archive.writestr(member, data)


def test_samples_are_read_as_written(tmp_path):
    sample = Sample(X, 1000.0, 1.0, 0, 7, False)
    write_sample(tmp_path / "x.npz", sample)
    found = read_sample(tmp_path / "x.npz")
    np.testing.assert_array_equal(found.x, X)
    assert found[1:] == sample[1:]
    write_latents(tmp_path / "x.npy", X)
    np.testing.assert_array_equal(read_latents(tmp_path / "x.npy"), X)


HOSTILE = {
    "pickle": save(np.array([{"a": 1}], dtype=object)),
    "bomb": bytes(1 << 28),
    "shape": head((1, 10**6, 10**6, 16)),
    "negative": head((-1, 2, 2, 16)),
    "short": save(X[None])[:-4],
    "nonsense": b"\x93NUMPY\x01\x00\x10\x00{'descr': ((((((",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays_are_rejected_in_bounded_memory(tmp_path, name):
    write_member(tmp_path / "x.npz", HOSTILE[name])
    (tmp_path / "x.npy").write_bytes(HOSTILE[name])
    tracemalloc.start()
    for path, read in ((tmp_path / "x.npz", read_sample), (tmp_path / "x.npy", read_latents)):
        with pytest.raises(UserError, match=rf"{path.name} is damaged"):
            read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
