"""Figures from plain arrays and dictionaries. They read no files and write only on request."""
