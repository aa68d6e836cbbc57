"""Pure functions over arrays: no files, no models, no global state."""
