"""A job that does not fit into memory or disk says so in one line."""

import logging
import shutil
from collections import namedtuple

import psutil
import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.preflight import check_disk, check_memory

Memory = namedtuple("Memory", "total available")
Disk = namedtuple("Disk", "free")


@pytest.fixture
def machine(monkeypatch):
    """16 GB of memory, 4 of them free, and 1 GB of disk."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(16 * 10**9, 4 * 10**9))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Disk(10**9))


def test_more_than_the_memory_of_the_machine_is_rejected_with_the_cure(machine):
    with pytest.raises(UserError) as error:
        check_memory(20 * 10**9, "drawing", "lower batch_size")
    assert str(error.value) == "drawing takes about 20.0 GB of memory, of 16.0 GB; lower batch_size"


def test_more_than_the_free_memory_is_a_warning(machine, caplog):
    with caplog.at_level(logging.WARNING):
        check_memory(5 * 10**9, "drawing", "lower batch_size")
    assert caplog.messages == ["drawing takes about 5.0 GB of memory, and 4.0 GB are free"]


def test_a_job_that_fits_has_no_message(machine, caplog, tmp_path):
    check_memory(3 * 10**9, "drawing", "lower batch_size")
    check_disk(tmp_path / "not" / "there", 10**9, "draw less")
    assert not caplog.messages


def test_a_disk_that_is_too_small_is_rejected_with_the_cure(machine, tmp_path):
    with pytest.raises(UserError) as error:
        check_disk(tmp_path, 2 * 10**9, "draw less")
    assert str(error.value) == f"{tmp_path}: 2000.0 MB are needed and 1000.0 MB are free; make room, or draw less"
