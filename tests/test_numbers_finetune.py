"""What `make numbers-finetune` measures with: its subjects, and who finds them."""

import numpy as np
import pytest

from blipdiff_impl.pictures.pixels import to_uint8
from blipdiff_impl.toy_world.render import LARGE_SIZE, PICTURE_SIZE
from blipdiff_impl.toybox.numbers_finetune import CANDIDATES, PHOTOS, PLACES, REPORTED, TRIAL, Jury, make_case
from tools.numbers.tuning import KEYS, ROWS, numbers, table


@pytest.mark.parametrize("size", (PICTURE_SIZE, LARGE_SIZE))
def test_a_case_is_always_the_same_and_its_places_are_new(size):
    case, again = make_case(3, size=size), make_case(3, size=size)
    assert case.size == size
    assert case.photos.shape == (PHOTOS, size, size, 3) and case.masks.shape == (PHOTOS, size, size)
    assert case.candidates.shape == (CANDIDATES, size, size, 3) and case.candidates.dtype == np.uint8
    assert len(set(case.places)) == PLACES == len(case.phrases)
    assert case.photos.equal(again.photos) and np.array_equal(case.candidates, again.candidates)


def test_settings_are_chosen_on_other_subjects_than_those_reported():
    assert not make_case(0, TRIAL).photos.equal(make_case(0, REPORTED).photos)


@pytest.mark.parametrize("size", (PICTURE_SIZE, LARGE_SIZE))
def test_the_jury_finds_renders_and_not_those_of_a_look_alike(size):
    case, jury = make_case(1, size=size), Jury()
    photos = to_uint8(case.photos)
    assert jury.score(case, photos)["top1"] == 1
    others = np.stack([case.candidates[1]] * PLACES)
    of_another = jury.score(case, others)
    assert of_another["top1"] == 0 and of_another["margin"] < 0 < jury.score(case, photos)["margin"]


def test_gains_of_the_means_are_paired_with_the_first_row():
    """Subjects differ by far more than rows do, and each row gains the same on every one of them."""
    subjects = np.linspace(0, 0.5, 4)[:, None] * np.ones(len(KEYS))
    found = {name: subjects + place / 100 for place, name in enumerate(("zero-shot", *ROWS))}
    flat = numbers(found)
    assert flat["masks_margin_gain"] == 0.01 and flat["masks_margin_gain_se"] == 0
    assert flat["zero_shot_top1_gain"] == -0.01 and flat["masks_top1_se"] > 0.05
    assert "| masks | 0.270 ± 0.108 | 0.010 ± 0.000 |" in table(found)
