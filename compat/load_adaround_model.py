"""`python -m src.load_adaround_model`: see `compat/commands.py`."""

from compat.running import run

if __name__ == "__main__":
    run("load_adaround_model")
