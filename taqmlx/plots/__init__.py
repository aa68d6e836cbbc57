"""Figures from plain arrays and dictionaries. They read no file and save none but those they are told to."""
