"""Checks of a results folder. A check returns a detail and its faults, or None if there is nothing to check yet."""
