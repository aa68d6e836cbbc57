"""The campaign of changed values has every key that a stage of the embedded model reads."""

from taqmlx.planning import plan
from tools.faults.config_changes import CHANGED, DEFAULTS, list_readers

OTHER_MODELS = {"model", *(key for keys in plan.MODEL_KEYS.values() for key in keys)}


def test_every_key_that_a_stage_reads_is_changed():
    read = {key for key in DEFAULTS if list_readers(key, DEFAULTS)}
    assert read - OTHER_MODELS <= CHANGED.keys()


def test_every_changed_value_differs_from_the_default():
    assert all(value != DEFAULTS[key] for key, value in CHANGED.items())
