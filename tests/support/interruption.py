"""An interruption right after a command saved its learning state, as by Ctrl-C or a scheduler."""

from collections.abc import Callable

import pytest


def interrupt_after_saves(module, monkeypatch, saves: int, run: Callable[[], object]) -> None:
    """Run a command of `module` that is interrupted once `write_learning` has returned for the `saves`th time."""
    write, count = module.write_learning, [0]

    def write_and_stop(*arguments):
        write(*arguments)
        count[0] += 1
        if count[0] == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_learning", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run()
