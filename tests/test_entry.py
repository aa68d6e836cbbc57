"""What every entry shares: exit codes, error lines, logs and progress."""

import logging

import pytest

from workflow_scripts import entry
from workflow_scripts.store.errors import UserError


def run_entry(monkeypatch, main, *arguments):
    monkeypatch.setattr("sys.argv", ["entry", *arguments])
    entry.run(main, entry.build_parser("An entry."))


def fail(error):
    def main(_):
        raise error

    return main


def test_a_user_error_is_one_line_and_its_traceback_is_in_the_log(monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        run_entry(monkeypatch, fail(UserError("x.zarr is damaged; delete it")), "--log", str(tmp_path / "a" / "log"))
    shown = capsys.readouterr().err
    assert stopped.value.code == 1
    assert shown.startswith("error: x.zarr is damaged; delete it")
    assert "Traceback" not in shown
    assert "Traceback" in (tmp_path / "a" / "log").read_text()


def test_an_unforeseen_error_keeps_its_traceback_when_there_is_no_log(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_entry(monkeypatch, fail(ZeroDivisionError("by zero")))
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        run_entry(monkeypatch, fail(KeyboardInterrupt()))
    assert stopped.value.code == 130


def test_progress_shows_share_rate_and_time_left(caplog):
    caplog.set_level(logging.INFO)
    progress = entry.Progress("shard 003", total=10, unit="steps", interval=0.0)
    progress.advance(5)
    assert "shard 003: 5/10 steps" in caplog.text
    assert "/s, " in caplog.text
    assert "left" in caplog.text


def test_progress_is_quiet_between_its_intervals_and_always_shows_the_end(caplog):
    caplog.set_level(logging.INFO)
    progress = entry.Progress("shard", total=3, unit="steps", interval=100.0)
    for _ in range(3):
        progress.advance()
    assert [record.message.split(",")[0] for record in caplog.records] == ["shard: 3/3 steps"]


@pytest.mark.parametrize(("seconds", "text"), [(42.4, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_are_readable(seconds, text):
    assert entry.format_duration(seconds) == text
