"""The check of readers finds forbidden behaviour."""

import time

import numpy as np
import pytest

from taqmlx.store.errors import UserError
from tools.faults import hostile

SECONDS = 8


def wait(_):
    time.sleep(60)


def refuse(words):
    def read(_):
        raise UserError(words)

    return read


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda _: {}["rows"], "KeyError: 'rows'"),
        (lambda _: np.ones(40 << 20), "takes 320 MiB for 0 bytes"),
        (wait, f"TimeoutError: it takes more than {SECONDS} s"),
        (refuse("x is damaged;\n  get it again"), ""),
        (lambda _: None, ""),
    ],
)
def test_forbidden_behaviour_of_a_reader_is_found(read, words, monkeypatch, tmp_path):
    monkeypatch.setattr(hostile, "SECONDS", SECONDS)
    found = hostile.find_failure(read, tmp_path)
    assert found.startswith(words)
    assert bool(found) == bool(words)
