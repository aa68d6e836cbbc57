"""Errors meant for the person running the workflow."""


class UserError(Exception):
    """One or two lines: what is wrong, where, and what to do about it."""
