"""A lock has one holder at a time and is released when its holder dies."""

import signal
import subprocess
import sys
import threading

from taqmlx.store.lock import hold_lock

HOLDER = """
import sys, time
from pathlib import Path
from taqmlx.store.lock import hold_lock
with hold_lock(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_waits_and_says_so(tmp_path):
    path, said, held = tmp_path / "a" / "007.lock", [], threading.Event()

    def hold_second():
        with hold_lock(path, lambda line: (said.append(line), announced.set())):
            held.set()

    announced = threading.Event()
    with hold_lock(path, said.append):
        thread = threading.Thread(target=hold_second)
        thread.start()
        assert announced.wait(60)
        assert not held.is_set()
    assert held.wait(60)
    thread.join()
    assert said == [f"{path} is held by another process; waiting for it to end"]


def test_a_killed_holder_releases_it(tmp_path):
    path, said = tmp_path / "007.lock", []
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold_lock(path, said.append):
        assert said == []
