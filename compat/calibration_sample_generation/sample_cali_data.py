"""`python -m src.calibration_sample_generation.sample_cali_data`: see `compat/commands.py`."""

from compat.running import run

if __name__ == "__main__":
    run("calibration_sample_generation.sample_cali_data")
