"""Errors meant for the person running the workflow."""

from collections.abc import Iterator
from contextlib import contextmanager

# What readers stumble over in a file that none of our writers wrote.
UNFIT = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


class UserError(Exception):
    """One or two lines: what is wrong, where, and what to do about it."""


class UnreachableError(UserError):
    """A place that gives no answer: what it holds is neither there, nor missing, nor damaged, but unknown."""


@contextmanager
def blame(path: object) -> Iterator[None]:
    """Raise UserError, naming the file or folder `path`, for whatever does not fit while its content is taken apart."""
    try:
        yield
    except UNFIT as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise UserError(f"{path} is damaged ({reason}); delete it and run again") from error
