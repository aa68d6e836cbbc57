"""`python -m src.adaround_optimize`: see `compat/commands.py`."""

from compat.running import run

if __name__ == "__main__":
    run("adaround_optimize")
