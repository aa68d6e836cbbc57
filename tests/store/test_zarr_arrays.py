"""Arrays are written with checksums, and a missing or damaged chunk is always found."""

import json

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from taqmlx.store.errors import UserError
from taqmlx.store.zarr_arrays import (
    ArraySpec,
    check_group,
    create_group,
    find_missing,
    find_strays,
    read_chunk,
    write_chunks,
)

XS = ArraySpec("xs", (2, 5, 4), (1, 2, 4), "float16")
SEEDS = ArraySpec("seeds", (2,), (2,), "int64")
LEVELS = ArraySpec("levels", (3,), (2,), "float32")
SPECS = [XS, SEEDS, LEVELS]
RNG = np.random.default_rng(0)
VALUES = {
    "xs": RNG.normal(size=XS.shape).astype(np.float16),
    "seeds": np.zeros(2, dtype=np.int64),
    "levels": np.zeros(3, dtype=np.float32),
}


def list_regions(spec):
    """Each chunk's index and its part of the values, which ends at the array's edge."""
    for index in spec.list_chunks():
        region = tuple(slice(i * size, (i + 1) * size) for i, size in zip(index, spec.chunks, strict=True))
        yield index, VALUES[spec.name][region]


@pytest.fixture
def group(tmp_path):
    path = tmp_path / "g"
    create_group(path, SPECS, {"kept": "été"})
    write_chunks(path, [(spec, index, values) for spec in SPECS for index, values in list_regions(spec)])
    return path


def test_zarr_reads_the_written_arrays(group):
    found = zarr.open_group(group, mode="r")
    assert found.attrs["kept"] == "été"
    for spec in SPECS:
        assert found[spec.name].dtype == spec.dtype
        assert np.array_equal(found[spec.name][...], VALUES[spec.name])


def test_the_files_are_those_of_zarr(group, tmp_path):
    theirs = zarr.create_group(tmp_path / "z")
    for spec in SPECS:
        theirs.create_array(
            spec.name,
            shape=spec.shape,
            chunks=spec.chunks,
            dtype=spec.dtype,
            compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()],
            fill_value=spec.fill,
            chunk_key_encoding={"name": "default", "separator": "."},
        )
        theirs[spec.name][...] = VALUES[spec.name]
        described = [json.loads((root / spec.name / "zarr.json").read_text()) for root in (group, tmp_path / "z")]
        assert described[0] == described[1]
        for index, _ in list_regions(spec):
            file = spec.name_file(index)
            assert (group / file).read_bytes() == (tmp_path / "z" / file).read_bytes(), file


def test_arrays_written_by_zarr_are_read(group):
    zarr.open_group(group, mode="r+")["xs"][1, 2:4] = 7
    assert (read_chunk(group, XS, (1, 1)) == 7).all()


def test_chunks_are_cropped_at_the_edge(group):
    for spec in SPECS:
        for index, values in list_regions(spec):
            found = read_chunk(group, spec, index)
            assert found.dtype == spec.dtype
            assert np.array_equal(found, values)
    assert read_chunk(group, XS, (1, 2)).shape == (1, 1, 4)


def test_every_chunk_has_a_file_even_a_chunk_of_zeros(group):
    assert [XS.name_file(index) for index in XS.list_chunks()] == [
        f"xs/c.{i}.{k}.0" for i in range(2) for k in range(3)
    ]
    assert not list(find_missing(group, SPECS))
    (group / "seeds/c.0").unlink()
    assert [line.split(" is")[0] for line in find_missing(group, SPECS)] == [str(group / "seeds/c.0")]


def test_a_flipped_bit_anywhere_names_its_file(group):
    path = group / "xs/c.1.1.0"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        with pytest.raises(UserError, match=r"xs/c\.1\.1\.0 is damaged"):
            read_chunk(group, XS, (1, 1))


@pytest.mark.parametrize("length", [0, 3, 4, 20, -1])
def test_a_truncated_chunk_is_named(group, length):
    path = group / "xs/c.0.2.0"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"xs/c\.0\.2\.0 is damaged"):
        read_chunk(group, XS, (0, 2))


def test_a_missing_chunk_is_named(group):
    (group / "xs/c.0.2.0").unlink()
    with pytest.raises(UserError, match=r"xs/c\.0\.2\.0 is missing"):
        read_chunk(group, XS, (0, 2))


def test_a_chunk_with_another_size_is_damaged(group):
    (group / "levels/c.0").write_bytes((group / "xs/c.0.0.0").read_bytes())
    with pytest.raises(UserError, match=r"levels/c\.0 is damaged"):
        read_chunk(group, LEVELS)


def test_foreign_files_are_named_except_the_timestamp_of_snakemake(group):
    (group / ".snakemake_timestamp").touch()
    assert not list(find_strays(group, SPECS))
    (group / "xs/c.0.0.0.12.partial").touch()
    assert [line.split(" does")[0] for line in find_strays(group, SPECS)] == [str(group / "xs/c.0.0.0.12.partial")]


def test_an_array_with_another_description_is_named(group):
    check_group(group, SPECS)
    with pytest.raises(UserError, match=r"xs/zarr.json: shape is \[2, 5, 4\] instead of \[2, 6, 4\]"):
        check_group(group, [ArraySpec("xs", (2, 6, 4), (1, 2, 4), "float16")])
    with pytest.raises(UserError, match=r"seeds/zarr.json: data_type is int64"):
        check_group(group, [ArraySpec("seeds", (2,), (2,), "float32")])


def test_a_missing_array_is_named(group):
    with pytest.raises(UserError, match=r"ts/zarr.json is missing"):
        check_group(group, [ArraySpec("ts", (2,), (2,), "float32")])
