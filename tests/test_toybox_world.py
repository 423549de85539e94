"""The toy world: the same seed gives the same picture, looks keep their distances, words never give a look away."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from blipdiff_impl.prompts.tokenizers import CLIP_END, CLIP_START, clip_ids
from blipdiff_impl.toy_world import prompts
from blipdiff_impl.toy_world.colour import delta_e, rgb_to_lab
from blipdiff_impl.toy_world.render import PICTURE_SIZE, REFERENCE_SIZE, render_picture, render_reference
from blipdiff_impl.toy_world.world import (
    BACKGROUND_NAMES,
    CATEGORIES,
    HELD_OUT_SEED,
    MIN_ACCENT_DISTANCE,
    MIN_SECOND_DISTANCE,
    PATTERNS,
    captions,
    subject_from_seed,
)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    # CIE Lab of the sRGB primaries under D65, as published (for example by Bruce Lindbloom)
    [
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_of_primaries(rgb, lab):
    assert np.abs(rgb_to_lab(np.array(rgb)) - lab).max() < 0.05


def test_same_seed_same_pictures():
    subject = subject_from_seed(7)
    for render in (lambda rng: render_picture(subject, "beach", rng), lambda rng: render_reference(subject, rng)):
        first, again, other = (render(np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.array_equal(first.picture, again.picture) and np.array_equal(first.mask, again.mask)
        assert not np.array_equal(first.picture, other.picture)


def test_picture_shapes_and_subject_size():
    for i, category in enumerate(CATEGORIES):
        subject = subject_from_seed(i, category)
        target = render_picture(subject, BACKGROUND_NAMES[i], np.random.default_rng(i))
        reference = render_reference(subject, np.random.default_rng(i))
        assert target.picture.shape == (PICTURE_SIZE, PICTURE_SIZE, 3) and target.picture.dtype == np.uint8
        assert reference.picture.shape == (REFERENCE_SIZE, REFERENCE_SIZE, 3)
        assert 0.08 < (target.mask > 127).mean() < 0.6


def test_main_colour_covers_a_plain_subject():
    """The look that is asked for is the look that is painted."""
    subject = next(s for s in map(lambda i: subject_from_seed(i, "ball"), range(100)) if s.look.pattern == "plain")
    drawn = render_picture(subject, "snow", np.random.default_rng(0))
    inside = drawn.picture[drawn.mask == 255]
    assert (delta_e(inside, np.array(subject.look.main)) < 2).mean() > 0.4


def test_held_out_looks_differ_from_training_looks():
    training = {subject_from_seed(i).look for i in range(3000)}
    held_out = [subject_from_seed(HELD_OUT_SEED + i).look for i in range(300)]
    assert len(training) == 3000
    assert not training & set(held_out)


def test_looks_keep_their_lab_distances():
    looks = [subject_from_seed(i).look for i in range(400)]
    main, second, accent = (np.array([getattr(look, name) for look in looks]) for name in ("main", "second", "accent"))
    assert delta_e(main, second).min() >= MIN_SECOND_DISTANCE
    assert min(delta_e(main, accent).min(), delta_e(second, accent).min()) >= MIN_ACCENT_DISTANCE


def test_looks_are_spread_over_hues_patterns_and_kinds():
    subjects = [subject_from_seed(i) for i in range(600)]
    hues = np.array([colorsys.rgb_to_hsv(*s.look.main)[0] for s in subjects])
    assert np.histogram(hues, bins=6, range=(0, 1))[0].min() > 30
    for values, known in (([s.look.pattern for s in subjects], PATTERNS), ([s.category for s in subjects], CATEGORIES)):
        assert set(values) == set(known)


def test_captions_never_tell_the_look():
    words = {word for name in BACKGROUND_NAMES for phrase in captions(name) for word in phrase.split()}
    assert not words & set(PATTERNS)
    text = {prompts.repeat(c, p, 1) for c in CATEGORIES for name in BACKGROUND_NAMES for p in captions(name)}
    # A caption is a function of kind and place alone; "red carpet", "blue waves" and "green meadow" are places.
    assert len(text) == len(CATEGORIES) * sum(len(captions(name)) for name in BACKGROUND_NAMES)


def test_rows_hold_the_released_template():
    """[start, "a", 16 vectors, category ...], cut so that the end token is the last of 77 positions."""
    ids, position = prompts.row(prompts.repeat("mug", "on the grass", 20), 2)
    assert position == 2 and len(ids) == 77 and ids[0] == CLIP_START and ids[-1] == CLIP_END
    assert list(ids[[1, 18]]) == clip_ids("a mug")
    assert CLIP_END not in ids[18:-1]


def test_rows_hold_the_paper_template_and_the_empty_prompt():
    ids, position = prompts.row("on the grass, the mug is", -1)
    words = clip_ids("on the grass, the mug is")
    assert position == 1 + len(words) and list(ids[1:position]) == words
    assert set(ids[position:]) == {CLIP_END}
    empty, nowhere = prompts.row("", None)
    assert nowhere == -1 and list(empty) == [CLIP_START] + [CLIP_END] * 76


def test_training_rows_cover_all_kinds_of_prompt():
    rng = np.random.default_rng(0)
    drawn = [prompts.draw_row("cat", "night", rng) for _ in range(2000)]
    positions = np.array([position for _, position in drawn])
    empty = np.array([(ids[1:] == CLIP_END).all() for ids, _ in drawn])
    assert 0.08 < empty.mean() < 0.12
    assert 0.09 < ((positions == -1) & ~empty).mean() < 0.17
    assert 0.12 < (positions > 2).mean() < 0.2
    assert all(len(ids) == 77 for ids, _ in drawn)
