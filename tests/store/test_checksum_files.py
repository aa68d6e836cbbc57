"""Files without a checksum of their own have one beside them, which never covers other files."""

import hashlib
import shutil
import subprocess

import pytest

from taqmlx.store.checksum_files import (
    checksummed,
    name_result,
    name_sums,
    read_sums,
    write_checksummed_folder,
    write_text,
)
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_atomically


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fill(folder):
    for name in ("b.txt", "a.txt"):
        (folder / name).write_text(name)


def test_a_text_file_has_a_checksum(tmp_path):
    write_text(tmp_path / "page.html", "é\n")
    assert (tmp_path / "page.html").read_bytes() == "é\n".encode()
    assert read_sums(tmp_path / "page.html.sha256") == {"page.html": digest("é\n".encode())}


def test_files_with_one_stem_share_a_checksum_file(tmp_path):
    files = [tmp_path / f"plot.{end}" for end in ("svg", "png")]
    with checksummed(tmp_path / "plot", *files):
        for file in files:
            file.write_text(file.name)
    assert read_sums(tmp_path / "plot.sha256") == {name: digest(name.encode()) for name in ("plot.png", "plot.svg")}


def test_a_folder_has_a_checksum_per_file(tmp_path):
    write_checksummed_folder(tmp_path / "texts", fill)
    assert read_sums(tmp_path / "texts.sha256") == {
        f"texts/{name}": digest(name.encode()) for name in ("a.txt", "b.txt")
    }


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum")
def test_sha256sum_reads_the_digests(tmp_path):
    write_checksummed_folder(tmp_path / "texts", fill)
    command = ["sha256sum", "--check", "--strict", "texts.sha256"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    (tmp_path / "texts" / "a.txt").write_text("b.txt")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1


def test_a_writer_that_dies_before_the_checksum_leaves_a_file_without_one(tmp_path):
    path = tmp_path / "page.html"
    write_text(path, "old")

    def die():
        with checksummed(path):
            write_atomically(path, lambda partial: partial.write_text("new"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die()
    assert path.read_text() == "new"
    assert not name_sums(path).exists()


def test_a_writer_that_dies_before_the_folder_is_in_place_can_write_it_again(tmp_path):
    def die(folder):
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checksummed_folder(tmp_path / "texts", die)
    assert list(tmp_path.iterdir()) == []
    write_checksummed_folder(tmp_path / "texts", fill)
    assert len(read_sums(tmp_path / "texts.sha256")) == 2


def test_every_flipped_bit_of_the_digests_is_found(tmp_path):
    write_checksummed_folder(tmp_path / "texts", fill)
    sums = tmp_path / "texts.sha256"
    content = sums.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        sums.write_bytes(changed)
        with pytest.raises(UserError, match=r"texts\.sha256 (is damaged|cannot be read)"):
            read_sums(sums)


def test_digests_cut_short_at_a_line_are_damaged(tmp_path):
    write_checksummed_folder(tmp_path / "texts", fill)
    sums = tmp_path / "texts.sha256"
    lines = sums.read_text().splitlines(keepends=True)
    for count in range(len(lines)):
        sums.write_text("".join(lines[:count]))
        with pytest.raises(UserError, match="is damaged"):
            read_sums(sums)


def test_digests_of_other_files_than_the_name_says_are_rejected(tmp_path):
    write_text(tmp_path / "page.html", "text")
    other = (tmp_path / "page.html.sha256").rename(tmp_path / "pages.html.sha256")
    with pytest.raises(UserError, match="is damaged"):
        read_sums(other)
    assert name_result(other) == tmp_path / "pages.html"
