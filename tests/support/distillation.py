"""Small distillation tasks: models of 3 bits, their points and settings."""

import mlx.core as mx
import numpy as np

from taqmlx.reconstruction.distillation import KINDS
from taqmlx.reconstruction.stages import WHOLE
from taqmlx.reconstruction.student import assemble_student
from taqmlx.reconstruction.velocity_loss import Settings, Task, compare, load_teacher, teach
from tests.mmdit.test_calibration_points import SIGMAS, make_points
from tests.support.students import create_model, make_files

EXACT_INPUTS, COARSE_INPUTS = {"bits": 16}, {"bits": 4, "policy": "lut"}
GROUPED_INPUTS = {"bits": 8, "policy": "dynamic", "group_size": 32}
SMALL = {"hidden_size_override": 64, "num_heads": 1, "token_level_text_embed_dim": 64, "pooled_text_embed_dim": 64}
SINGLE = {"dtype": mx.float32, "float16_dtype": mx.float32}  # sums in bfloat16 depend on their order
SETTINGS = Settings(
    kind="codes",
    iterations=6,
    batch=6,
    rate=5e-4,
    code_rate=3e-3,
    conditions=0.5,
    sigma_power=0.0,
    unroll=1,
    checkpoint_every=2,
    guidance=3.0,
    seed=0,
    learning_dtype="float32",
)
LEVELS = np.append(SIGMAS, np.float32(0))
POINTS = np.array([0, 5, 2, 11])  # at every noise level


def make_task(folder, activation=EXACT_INPUTS, conditions=2, **changes):
    """A task on a small model rounded to 3 bits, nearest, and where it starts by kind."""
    model = create_model(**SMALL | changes)
    points = make_points(model, conditions=conditions)
    student, codes = assemble_student(model, make_files(folder, model, points, activation, bits=3, sizes=(32, 64)))
    sets = points, LEVELS, np.arange(8), np.arange(8, 12)
    task = Task(lambda: model, model, student, *sets, conditions, SETTINGS.batch, WHOLE)
    return task, {kind: student.start(model, codes, "codes" in KINDS[kind]) for kind in KINDS}


def compare_fast(task, settings, learned, indices=POINTS):
    return compare(task, settings, learned, teach(task, settings, load_teacher(task), indices))
