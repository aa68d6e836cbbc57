"""The released models in miniature: every file that DiffusionKit loads, with the real layout and names.

Only the sizes differ: random weights, the real number of blocks with a width of 64, and generated vocabularies.
"""
