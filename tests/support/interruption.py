"""An interruption right after a command saved its learning state, as by Ctrl-C or a scheduler."""

from collections.abc import Callable

import pytest

from taqmlx.store.sealed_job import SealedJob


def interrupt_after_saves(monkeypatch, saves: int, run: Callable[[], object]) -> None:
    """Run a command that is interrupted once its learning is saved for the `saves`th time."""
    save, count = SealedJob.save_learning, [0]

    def save_and_stop(*arguments):
        save(*arguments)
        count[0] += 1
        if count[0] == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SealedJob, "save_learning", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run()
