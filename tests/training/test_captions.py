"""Scenes and their captions."""

import re

import numpy as np
import pytest

from taqmlx.training.captions import (
    ABSENT,
    BACKGROUNDS,
    COLOURS,
    FIELDS,
    SHAPES,
    is_held_out,
    sample_scene,
    write_caption,
)


def sample(count: int, number: int = 300, **options) -> list[dict[str, int]]:
    rng = np.random.default_rng(0)
    return [sample_scene(rng, count, **options) for _ in range(number)]


@pytest.mark.parametrize("count", [1, 2])
def test_objects_differ_from_the_background_and_from_each_other(count):
    for scene in sample(count):
        colours = [COLOURS[scene[f"colour_{slot}"]] for slot in range(1, count + 1)]
        assert BACKGROUNDS[scene["background"]] not in colours
        if count == 2:
            assert (scene["shape_1"], scene["colour_1"]) != (scene["shape_2"], scene["colour_2"])


def test_fields_that_do_not_apply_are_absent():
    assert all(scene["shape_2"] == scene["colour_2"] == scene["size_2"] == ABSENT for scene in sample(1))
    assert all(scene["position"] == ABSENT and scene["layout"] > 0 for scene in sample(2))


def test_every_value_occurs_on_both_sides_of_the_split():
    for held_out in (False, True):
        scenes = sample(1, 600, held_out=held_out) + sample(2, 600, held_out=held_out)
        for name, size in FIELDS.items():
            assert {scene[name] for scene in scenes} - {ABSENT} == set(range(size))


def test_training_and_scoring_scenes_never_meet():
    assert not any(is_held_out(scene) for scene in sample(2))
    assert all(is_held_out(scene) for scene in sample(2, held_out=True))


def test_a_complete_caption_names_every_attribute():
    rng = np.random.default_rng(1)
    for scene in sample(1, 50) + sample(2, 50):
        caption = write_caption(rng, scene, omit={})
        assert caption.asked == tuple(scene.values())
        for slot in range(1, scene["count"] + 2):
            assert COLOURS[scene[f"colour_{slot}"]] in caption.text
            assert SHAPES[scene[f"shape_{slot}"]] in caption.text


def test_attributes_outside_a_caption_are_not_asked():
    rng = np.random.default_rng(2)
    everything = {"background": 1.0, "position": 1.0, "colour": 1.0, "size": 1.0}
    for scene in sample(1, 20):
        caption = write_caption(rng, scene, omit=everything)
        assert re.fullmatch(f"an? {SHAPES[scene['shape_1']]}", caption.text)
        named = {name for name, value in zip(FIELDS, caption.asked, strict=True) if value != ABSENT}
        assert named == {"count", "layout", "shape_1"}


def test_the_first_slot_is_the_left_or_upper_object():
    rng = np.random.default_rng(3)
    for scene in sample(2, 50):
        text = write_caption(rng, scene, omit={}).text
        first, second = re.split(r"(?: to the)? (?:left of|right of) | above | below ", text.split(" on a ")[0])
        if " right of " in text or " below " in text:
            first, second = second, first
        assert f"{COLOURS[scene['colour_1']]} {SHAPES[scene['shape_1']]}" in first
        assert f"{COLOURS[scene['colour_2']]} {SHAPES[scene['shape_2']]}" in second


def test_captions_fit_the_text_model():
    rng = np.random.default_rng(4)
    assert max(len(write_caption(rng, scene, omit={}).text.split()) for scene in sample(2)) <= 18


def test_a_seed_gives_one_caption():
    scene = sample(2, 1)[0]
    assert write_caption(np.random.default_rng(5), scene) == write_caption(np.random.default_rng(5), scene)
