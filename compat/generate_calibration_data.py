"""`python -m src.generate_calibration_data`: see `compat/commands.py`."""

from compat.running import run

if __name__ == "__main__":
    run("generate_calibration_data")
