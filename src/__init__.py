"""`python -m src.X`, the call of the original programs, runs `compat/X.py`."""

from compat import __path__  # noqa: F401
