"""Rounding that is measured and learned: layers, blocks, and the whole model."""
