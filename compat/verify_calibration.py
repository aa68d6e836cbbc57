"""`python -m src.verify_calibration`: see `compat/commands.py`."""

from compat.running import run

if __name__ == "__main__":
    run("verify_calibration")
