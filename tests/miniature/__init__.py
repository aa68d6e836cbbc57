"""Stable Diffusion 3 Medium in miniature: every file DiffusionKit loads, in the real layout under the real names.

Only the sizes differ: random weights, 24 blocks of width 64, and vocabularies made on the spot.
"""
