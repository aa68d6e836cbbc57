"""Faults planted on purpose, over every stage of the embedded model at the scale of `config/quick.yaml`.

`make faults` runs the campaigns whole and writes `docs/reliability.md` from what they found; the tests beside them run
a short seeded part of each.
"""
