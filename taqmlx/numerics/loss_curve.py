"""Loss curves shortened for reports."""

import math
from collections.abc import Sequence

import numpy as np

from taqmlx.planning.documents import LossCurve

LOSSES_REPORTED = 200  # at most; each is the mean over a run of iterations


def shorten_losses(losses: Sequence[float]) -> LossCurve:
    """Mean losses over runs of `every` iterations."""
    every = max(1, math.ceil(len(losses) / LOSSES_REPORTED))
    return {"every": every, "values": [float(np.mean(losses[i : i + every])) for i in range(0, len(losses), every)]}
