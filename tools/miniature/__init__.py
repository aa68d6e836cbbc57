"""The released models in miniature: every file DiffusionKit loads, in the real layout under the real names.

Only the sizes differ: random weights, as many blocks as the real models have, of width 64, and vocabularies made on the
spot.
"""
