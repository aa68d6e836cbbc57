"""`python -m src.X`, as the original programs are called, runs `compat/X.py`."""

from compat import __path__  # noqa: F401
