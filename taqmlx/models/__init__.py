"""The models: the embedded one, and those DiffusionKit defines."""
