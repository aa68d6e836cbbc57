"""`python -m src.visualize_activations`: see `compat/commands.py`."""

from compat.running import run

if __name__ == "__main__":
    run("visualize_activations")
