"""How `make numbers-ms` compares where a thing is with where it should be."""

import numpy as np

from blipdiff_impl.toy_world.scenes import box_around
from blipdiff_impl.toybox.box_judge import crop_around
from tools.numbers.ms_diffusion import _overlap, trials_of

BOX = np.array([50.0, 60.0, 122.0, 132.0])


def crop_of(x0, y0, x1, y1):
    """The mask of a thing with these edges in the crop around the box."""
    picture = np.zeros((192, 192, 3), np.uint8)
    picture[y0:y1, x0:x1] = 255
    return crop_around(picture, BOX)[..., 0] > 127


def test_a_thing_that_fills_its_box_is_right_and_one_beside_it_is_not():
    assert _overlap(crop_of(50, 60, 122, 132), BOX, BOX) > 0.97
    assert abs(_overlap(crop_of(50, 60, 86, 132), BOX, BOX) - 0.5) < 0.03  # its left half
    assert abs(_overlap(crop_of(41, 51, 131, 141), BOX, BOX) - (72 / 90) ** 2) < 0.03  # larger by a quarter
    assert _overlap(crop_of(140, 60, 150, 70), BOX, BOX) == 0  # outside of the crop
    assert _overlap(np.zeros((96, 96), bool), BOX, BOX) == 0


def test_a_flat_thing_fills_the_rectangle_that_is_due_and_not_its_square():
    due = np.array([50.0, 80.0, 122.0, 116.0])
    mask = crop_of(50, 80, 122, 116)
    assert _overlap(mask, BOX, due) > 0.95
    assert abs(_overlap(mask, BOX, BOX) - 0.5) < 0.03


def test_a_rectangle_holds_all_that_is_set():
    mask = np.zeros((20, 30), bool)
    mask[4, 7] = mask[12, 20] = True
    assert box_around(mask).tolist() == [7, 4, 21, 13]


def test_scenes_with_and_are_those_with_commas():
    for with_comma, with_and in zip(trials_of(3, 4), trials_of(3, 4, commas=False), strict=True):
        assert (with_comma.subjects, with_comma.boxes) == (with_and.subjects, with_and.boxes)
        assert "," in with_comma.text and with_and.text == with_comma.text.replace(",", " and")
