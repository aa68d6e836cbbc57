"""Mean squares of layer inputs, which weighted ranges of weights are searched with."""

import numpy as np

from taqmlx.reconstruction.candidates import accumulate_hessians
from taqmlx.reconstruction.input_quantizers import calibrate, measure_squares


def test_they_are_the_diagonal_of_the_hessian(captured):
    problem, rules = captured.pose()
    quantizers, _ = calibrate(problem, {name: rule["activation"] for name, rule in rules.items()}, 0)
    squares, hessians = measure_squares(problem, quantizers), accumulate_hessians(problem, quantizers)
    assert squares.keys() == hessians.keys() == set(problem.readers.values())
    for key, found in squares.items():
        wanted = np.diag(hessians[key])
        np.testing.assert_allclose(found / found.mean(), wanted / wanted.mean(), rtol=1e-4)
