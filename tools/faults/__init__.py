"""Fault injection into every stage of the embedded model at the scale of `config/quick.yaml`.

`make faults` runs the full campaigns and writes `docs/reliability.md` and `docs/reliability.csv`; the tests have a
short seeded part of each.
"""
