"""How `make numbers-ms` compares where a thing is with where it should be."""

from dataclasses import replace

import numpy as np

from blipdiff_impl.toy_world.scenes import box_around
from blipdiff_impl.toybox.box_judge import crop_around
from blipdiff_impl.toybox.scene_numbers import rendered_scene
from tools.numbers.ms_diffusion import _overlap, trials_of, with_rectangles

BOX = np.array([50.0, 60.0, 122.0, 132.0])


def crop_of(x0, y0, x1, y1, box=BOX):
    """The mask of a thing with these edges in the crop around a box."""
    picture = np.zeros((192, 192, 3), np.uint8)
    picture[y0:y1, x0:x1] = 255
    return crop_around(picture, box)[..., 0] > 127


def test_a_thing_that_fills_its_box_is_right_and_one_beside_it_is_not():
    assert _overlap(crop_of(50, 60, 122, 132), BOX) > 0.97
    assert abs(_overlap(crop_of(50, 60, 86, 132), BOX) - 0.5) < 0.03  # its left half
    assert abs(_overlap(crop_of(41, 51, 131, 141), BOX) - (72 / 90) ** 2) < 0.03  # larger by a quarter
    assert _overlap(crop_of(140, 60, 150, 70), BOX) == 0  # outside of the crop
    assert _overlap(np.zeros((96, 96), bool), BOX) == 0


def test_a_flat_thing_fills_a_flat_box():
    flat = np.array([50.0, 80.0, 122.0, 116.0])
    assert _overlap(crop_of(50, 80, 122, 116, flat), flat) > 0.95
    assert abs(_overlap(crop_of(50, 80, 122, 116), BOX) - 0.5) < 0.03


def test_boxes_are_rectangles_around_the_things_of_the_rendered_scene():
    squares = trials_of(2, 4)
    for index, (trial, asked) in enumerate(zip(squares, with_rectangles(squares), strict=True)):
        assert np.array_equal(asked.rendered, rendered_scene(trial, index).picture)
        assert asked.scene == replace(trial, boxes=asked.scene.boxes)
        for (x0, y0, x1, y1), box in zip(trial.boxes, asked.scene.boxes, strict=True):
            inside = (x0 <= box[0] < box[2] <= x1, y0 <= box[1] < box[3] <= y1)
            assert all(inside) and box != (x0, y0, x1, y1)


def test_a_rectangle_holds_all_that_is_set():
    mask = np.zeros((20, 30), bool)
    mask[4, 7] = mask[12, 20] = True
    assert box_around(mask).tolist() == [7, 4, 21, 13]


def test_scenes_with_and_are_those_with_commas():
    for with_comma, with_and in zip(trials_of(3, 4), trials_of(3, 4, commas=False), strict=True):
        assert (with_comma.subjects, with_comma.boxes) == (with_and.subjects, with_and.boxes)
        assert "," in with_comma.text and with_and.text == with_comma.text.replace(",", " and")
