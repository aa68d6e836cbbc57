"""Untrusted pictures are read if their size is bounded, by readers of three formats only."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from taqmlx.store.errors import UserError
from taqmlx.store.pictures import is_drawn, name_picture, read_picture, write_picture

ABOUT = {"prompt": "a red circle", "seed": 3}


def write_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_bomb(path, width, height):
    """A PNG file of a few bytes whose header states the given size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (
        write_chunk(b"IHDR", head) + write_chunk(b"IDAT", zlib.compress(bytes(1 << 16))) + write_chunk(b"IEND", b"")
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize("size", [(8193, 8193), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_with_too_many_pixels_is_rejected_before_decoding(tmp_path, size):
    write_bomb(tmp_path / "x.png", *size)
    with pytest.raises(UserError, match=r"x.png is not a readable picture"):
        read_picture(tmp_path / "x.png")
    assert not is_drawn(tmp_path / "x.png", {})


def test_no_reader_of_another_format_is_used(tmp_path):
    for kind in ("PPM", "GIF", "EPS", "TIFF", "BMP"):
        Image.new("RGB", (4, 4)).save(tmp_path / "x.png", kind)
        with pytest.raises(UserError, match="is not a readable picture"):
            read_picture(tmp_path / "x.png")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_special_file_is_rejected_at_once(tmp_path, make):
    make(tmp_path / "x.png")
    with pytest.raises(UserError, match="it is not a regular file"):
        read_picture(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_are_read_as_rgb(tmp_path, kind):
    Image.new("L", (5, 4), 200).save(tmp_path / "x.png", kind)
    assert np.asarray(read_picture(tmp_path / "x.png")).shape == (4, 5, 3)


def test_a_drawn_picture_contains_its_origin(tmp_path):
    path = name_picture(tmp_path, 3)
    write_picture(path, np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2, 16), np.float32), ABOUT)
    assert is_drawn(path, ABOUT)
    assert not is_drawn(path, ABOUT | {"seed": 4})
    path.with_suffix(".safetensors").unlink()
    assert not is_drawn(path, ABOUT)
