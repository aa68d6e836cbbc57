"""The common behaviour of all entries: exit codes, error lines, logs and progress."""

import errno
import logging
from pathlib import Path

import pytest

from taqmlx.runtime import entry
from taqmlx.store.errors import UserError


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


def test_an_unexpected_error_is_one_line_and_says_how_to_get_its_traceback(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_entry(monkeypatch, fail(ZeroDivisionError("by zero")))
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: ZeroDivisionError: by zero (--log FILE keeps the traceback)\n"


def test_an_error_is_at_most_two_bounded_lines_without_control_characters(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_entry(monkeypatch, fail(UserError("a\x1b]0;title\x07\nget it\nagain" + "x" * 5000)))
    shown = capsys.readouterr().err
    assert shown.count("\n") == 2
    assert r"a\x1b]0;title\x07" in shown
    assert len(shown) < 1200


def test_an_interrupt_exits_with_130(monkeypatch):
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


@pytest.mark.parametrize(
    ("number", "cure"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "make its file system writable"), (errno.EACCES, "permissions of it")],
)
def test_a_system_error_is_one_line_with_a_cure_even_without_a_log(monkeypatch, capsys, number, cure):
    with pytest.raises(SystemExit):
        run_entry(monkeypatch, fail(OSError(number, "not allowed", "results/x.zarr")))
    shown = capsys.readouterr().err
    assert shown.startswith("error: results/x.zarr cannot be written or read (not allowed); ")
    assert cure in shown
    assert "Traceback" not in shown


def test_a_log_that_cannot_be_written_does_not_stop_the_work(monkeypatch, capsys, tmp_path):
    (tmp_path / "a").write_text("no folder")
    done = []
    run_entry(monkeypatch, done.append, "--log", str(tmp_path / "a" / "log"))
    assert done
    assert "a/log cannot be written (File exists); continuing without this log" in capsys.readouterr().err


def test_a_log_that_becomes_unwritable_is_closed_with_a_line(monkeypatch, capsys, tmp_path):
    def main(_):
        (handler,) = [one for one in logging.getLogger().handlers if isinstance(one, entry.LogFile)]
        handler.stream = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115  the handler closes it
        entry.log.info("first")
        entry.log.info("second")

    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    run_entry(monkeypatch, main, "--log", str(tmp_path / "log"))
    shown = capsys.readouterr().err
    assert shown.count("cannot be written (No space left on device); continuing without this log") == 1
    assert "second" in shown
    assert "Traceback" not in shown
