"""What exists in the toy world: kinds of things, their looks, places, and the words for them.

A look (three colours, a pattern, one of two sets of parts) belongs to a subject and is never put into words.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from .colour import delta_e

CATEGORIES = ("ball", "mug", "star", "fish", "house", "car", "robot", "hat", "boat", "cat", "mushroom", "rocket")
PATTERNS = ("plain", "stripes", "bars", "dots", "checks", "halves")
BACKGROUNDS = {
    "grass": ("on the grass", "in a green meadow"),
    "beach": ("on the beach", "on the sand by the sea"),
    "snow": ("in the snow", "on a snowy hill"),
    "water": ("in the water", "on blue waves"),
    "night": ("at night", "under the moon"),
    "brick wall": ("in front of a brick wall", "by a brick wall"),
    "table": ("on a wooden table", "on a table"),
    "sunset": ("at sunset", "in front of the setting sun"),
    "road": ("on a road", "on the street"),
    "sky": ("in the sky", "among the clouds"),
    "carpet": ("on a red carpet", "on the carpet"),
    "forest": ("in the forest", "among the trees"),
}
BACKGROUND_NAMES = tuple(BACKGROUNDS)

WORKING_SIZES = ((96, 96), (192, 96), (192, 192))
"""(width, height) in pixels of pictures that the embedded model draws. The second has a
region for each of two things."""

HELD_OUT_SEED = 1_000_000_000
"""Subjects with this seed or a larger one are never trained on."""

MIN_SECOND_DISTANCE = 40.0
MIN_ACCENT_DISTANCE = 30.0

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """How one subject looks. Colours are sRGB in 0..255; `variant` (0 or 1) chooses between two sets of parts."""

    main: RGB
    second: RGB
    accent: RGB
    pattern: str
    variant: int


@dataclass(frozen=True)
class ToySubject:
    """A thing with its look; the same seed gives the same subject."""

    category: str
    look: Look


def subject_from_seed(seed: int, category: str | None = None) -> ToySubject:
    """The subject with this seed; `category` asks for a kind instead of the seed's own."""
    rng = np.random.default_rng((seed, 77))
    own = CATEGORIES[rng.integers(len(CATEGORIES))]
    return ToySubject(category or own, _draw_look(rng))


def captions(background: str) -> tuple[str, ...]:
    """The phrases that describe a background, as in `a {category} {phrase}`."""
    return BACKGROUNDS[background]


def vocabulary() -> list[str]:
    """Word pieces of the subject encoder: BERT's special tokens and the names of the kinds."""
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *CATEGORIES]


def _draw_look(rng: np.random.Generator) -> Look:
    main = _draw_colour(rng)
    second = _draw_colour(rng, far_from=((main, MIN_SECOND_DISTANCE),))
    accent = _draw_colour(rng, far_from=((main, MIN_ACCENT_DISTANCE), (second, MIN_ACCENT_DISTANCE)))
    return Look(main, second, accent, PATTERNS[rng.integers(len(PATTERNS))], int(rng.integers(2)))


def _draw_colour(rng: np.random.Generator, far_from: tuple[tuple[RGB, float], ...] = ()) -> RGB:
    """A clear colour (seldom a pale or grey one) that keeps the given Lab distances."""
    while True:
        hue, saturation, value = rng.uniform(), rng.uniform(0.15, 1.0) ** 0.5, rng.uniform(0.5, 1.0)
        red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))
        colour = red, green, blue
        if all(delta_e(np.array(colour), np.array(other)) >= distance for other, distance in far_from):
            return colour
