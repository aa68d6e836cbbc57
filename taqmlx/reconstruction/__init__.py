"""Measurement and learning of rounding: for layers, blocks, and the whole model."""
