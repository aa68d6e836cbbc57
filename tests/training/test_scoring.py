"""The scores are what they state."""

import numpy as np
import pytest

from taqmlx.models import embedded
from taqmlx.models.classifier import HEADS, judge_pictures, load_classifier
from taqmlx.training.scoring import generate_pictures, rate_pictures, write_captions


def test_a_picture_is_correct_if_all_asked_attributes_are():
    asked = np.full((4, len(HEADS)), -1)
    asked[:, :2] = 0
    values = np.zeros((4, len(HEADS)), int)
    values[0, 0] = values[1, 1] = values[2, 5] = 1
    assert rate_pictures(values, asked) == {"all": 0.5, "count": 0.75, "background": 0.75}


def test_scored_captions_depend_only_on_the_seed():
    assert write_captions(1, 5, 2) == write_captions(1, 5, 2) != write_captions(2, 5, 2)


@pytest.mark.slow
@pytest.mark.whole
def test_pictures_show_their_captions():
    captions = write_captions(21, 48, 1) + write_captions(21, 48, 2)
    pictures = generate_pictures(embedded.FOLDER, [caption.text for caption in captions], 25, 3.0, seed=0)
    values, _ = judge_pictures(load_classifier(), pictures)
    asked = np.array([caption.asked for caption in captions])
    assert rate_pictures(values[:48], asked[:48])["all"] >= 0.94
    assert rate_pictures(values[48:], asked[48:])["all"] >= 0.80
