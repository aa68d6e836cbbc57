"""Models: the embedded one and those defined by DiffusionKit."""
