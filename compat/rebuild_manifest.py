"""`python -m src.rebuild_manifest`: see `compat/commands.py`."""

from compat.running import run

if __name__ == "__main__":
    run("rebuild_manifest")
