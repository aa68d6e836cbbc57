"""Errors meant for the person running the workflow."""

from collections.abc import Iterator
from contextlib import contextmanager

# Exceptions raised when parsing a file that is not in our format.
UNFIT = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


class UserError(Exception):
    """An error in one or two lines: the problem, its place and the remedy."""


class UnreachableError(UserError):
    """Storage that does not answer; whether its content is present, missing or damaged is unknown."""


@contextmanager
def report_unusable_values(name: str) -> Iterator[None]:
    """Turn a ValueError, which numerics raise for unusable weights or inputs, into a UserError that names the block."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


@contextmanager
def report_damage(path: object) -> Iterator[None]:
    """Turn exceptions from parsing the file or folder `path` into a UserError that names it."""
    try:
        yield
    except UNFIT as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise UserError(f"{path} is damaged ({reason}); delete it and run again") from error
