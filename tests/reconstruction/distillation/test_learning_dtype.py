"""Distillation with products in 16 bits: gradients near those in fp32, resumed bit for bit, measured in fp32."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from taqmlx.reconstruction.distillation import measure_held_out
from taqmlx.reconstruction.stages import BY_STAGE
from taqmlx.reconstruction.velocity_loss import differentiate, load_teacher, teach
from taqmlx.store.errors import UserError
from tests.reconstruction.distillation.test_learning import assert_equal, copy_state, learn_quietly, start_state
from tests.support.distillation import POINTS, SETTINGS

DTYPES = ("bfloat16", "float16")
DISTANCES = {"bfloat16": 0.06, "float16": 0.02}  # of the gradients to those in fp32, relative; 0.02 and 0.01 measured


def differentiate_at(task, learned, dtype):
    """Loss, and the gradients of the codes as one vector."""
    settings = SETTINGS._replace(learning_dtype=dtype)
    lesson = teach(task, settings, load_teacher(task), POINTS)
    loss, gradients = differentiate(task, settings, learned, {}, lesson)
    return loss.item(), np.concatenate([np.array(part).ravel() for _, part in sorted(gradients["codes"].items())])


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_and_gradients_are_near_those_in_fp32(study, dtype):
    task, starts = study
    (loss, exact), (half_loss, half) = (differentiate_at(task, starts["codes"], name) for name in ("float32", dtype))
    assert half_loss != loss
    assert half_loss == pytest.approx(loss, rel=0.05)
    assert np.linalg.norm(half - exact) / np.linalg.norm(exact) < DISTANCES[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_strategies_give_the_same_gradients(plain, dtype):
    task, starts = plain
    whole, parts = (differentiate_at(own, starts["codes"], dtype) for own in (task, task._replace(strategy=BY_STAGE)))
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    assert np.linalg.norm(parts[1] - whole[1]) / np.linalg.norm(whole[1]) < 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_learned_is_fp32_and_resumes_with_equal_bits(plain, dtype):
    task, starts = plain
    settings, saved = SETTINGS._replace(iterations=3, learning_dtype=dtype), []
    whole = learn_quietly(task, settings, start_state(starts["codes"]), lambda state: saved.append(copy_state(state)))
    assert {value.dtype for _, value in tree_flatten(whole.learned)} == {mx.float32}
    again = learn_quietly(task, settings, saved[0])
    assert again.losses == whole.losses
    assert_equal(again.learned, whole.learned)
    single = learn_quietly(task, settings._replace(learning_dtype="float32"), start_state(starts["codes"]))
    assert single.losses != whole.losses


def test_held_out_points_are_measured_in_fp32(plain):
    task, starts = plain
    errors = [
        measure_held_out(task, SETTINGS._replace(learning_dtype=dtype), {"start": starts["codes"]})
        for dtype in ("float32", *DTYPES)
    ]
    assert errors[0] == errors[1] == errors[2]


def test_a_product_beyond_fp16_stops_with_the_remedy(plain):
    task, starts = plain
    name = "mm_01.image.mlp.fc2"
    scales = starts["codes"]["scales"] | {name: starts["codes"]["scales"][name] + 9}  # e^9 times as large
    learned = starts["codes"] | {"scales": scales}
    with pytest.raises(UserError, match=r"first in the velocity; .*, set learning_dtype: float32, or check"):
        learn_quietly(task, SETTINGS._replace(learning_dtype="float16"), start_state(learned))
    for dtype in ("float32", "bfloat16"):
        assert np.isfinite(
            learn_quietly(task, SETTINGS._replace(iterations=1, learning_dtype=dtype), start_state(learned)).losses
        ).all()
