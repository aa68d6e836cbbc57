"""`python -m src.cache_adaround_data`: see `compat/commands.py`."""

from compat.running import run

if __name__ == "__main__":
    run("cache_adaround_data")
