"""The classifier recognises the attributes of a drawn picture."""

import numpy as np

from taqmlx.models.classifier import HEADS, compare_attributes, judge_pictures, load_classifier
from taqmlx.training.captions import FIELDS
from taqmlx.training.pool import draw_example


def test_the_heads_are_the_fields_of_a_scene_in_order():
    assert list(HEADS.items()) == list(FIELDS.items())


def test_all_attributes_of_real_pictures_are_recognised():
    examples = [draw_example(12, index, held_out=True) for index in range(256)]
    asked = np.array([tuple(scene.values()) for scene, _ in examples])
    values, features = judge_pictures(load_classifier(), np.stack([picture for _, picture in examples]))
    assert features.shape == (256, 128)
    assert features.dtype == np.float32
    assert compare_attributes(values, asked).all(axis=1).mean() >= 0.98


def test_attributes_outside_the_caption_are_not_scored():
    right = compare_attributes(np.array([[0, 1, 2]]), np.array([[0, -1, 1]]))
    assert right.tolist() == [[True, True, False]]
