"""`python -m src.collect_layer_activations`: see `compat/commands.py`."""

from compat.running import run

if __name__ == "__main__":
    run("collect_layer_activations")
