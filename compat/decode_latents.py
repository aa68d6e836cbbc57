"""`python -m src.decode_latents`: see `compat/commands.py`."""

from compat.running import run

if __name__ == "__main__":
    run("decode_latents")
