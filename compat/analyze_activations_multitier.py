"""`python -m src.analyze_activations_multitier`: see `compat/commands.py`."""

from compat.running import run

if __name__ == "__main__":
    run("analyze_activations_multitier")
