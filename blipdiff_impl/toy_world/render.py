"""Renders subjects of the toy world and places them in pictures. Deterministic for a given random generator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from . import backgrounds
from .shapes import parts
from .world import BACKGROUND_NAMES, Look, ToySubject

PICTURE_SIZE = 96
LARGE_SIZE = 192
REFERENCE_SIZE = 64
BANK_PER_BACKGROUND = 100

_SUPERSAMPLE = 3
_OUTLINE = 0.04
_NOTCHED_FROM = _SUPERSAMPLE * 80  # pixels; no thing in a picture of PICTURE_SIZE is drawn so large
_DARK = (28, 26, 30)
_WHITE = (248, 248, 244)


@dataclass(frozen=True)
class Rendered:
    """A picture uint8 [S, S, 3] and how much of each pixel is subject, uint8 [S, S] in 0..255."""

    picture: np.ndarray
    mask: np.ndarray


def render_subject(subject: ToySubject, side: int, stretch: float = 1.0) -> Image.Image:
    """The subject alone, RGBA (not premultiplied) [side, side]; `stretch` makes it wider (> 1) or narrower."""
    canvas = _SubjectCanvas(subject.look, side * _SUPERSAMPLE, stretch)
    for part in parts(subject.category, subject.look.variant):
        canvas.add(part)
    return canvas.finish().reduce(_SUPERSAMPLE)


def place(subject: Image.Image, background: np.ndarray, x: int, y: int) -> Rendered:
    """Put a rendered subject on a background with its upper left corner at pixel (x, y)."""
    picture = Image.fromarray(background)
    mask = Image.new("L", picture.size)
    mask.paste(subject.getchannel("A"), (x, y))
    layer = Image.new("RGB", picture.size)
    layer.paste(subject.convert("RGB"), (x, y))
    return Rendered(np.asarray(Image.composite(layer, picture, mask)), np.asarray(mask))


def render_picture(
    subject: ToySubject, background: str, rng: np.random.Generator, bank: bool = False, size: int = PICTURE_SIZE
) -> Rendered:
    """The subject in a described place, as the model should draw it: the subject large and near the centre.

    Args:
        bank: takes the background from a set rendered once (fast, for training) instead of a fresh one.
        size: side of the picture in pixels; everything in it grows alike.
    """
    ground = scene_ground(background, size, rng, bank)
    scale = size / PICTURE_SIZE
    side = round(int(rng.integers(62, 77)) * scale)
    free = size - side
    x = round(free / 2 + rng.uniform(-4, 4) * scale)
    y = round(free * 0.55 + rng.uniform(-4, 4) * scale)
    return place(render_subject(subject, side, rng.uniform(0.95, 1.05)), ground, x, y)


def render_reference(subject: ToySubject, rng: np.random.Generator, bank: bool = False) -> Rendered:
    """The subject as somebody would show it: 64 px, any place and scale, on a plain, gradient or scene background."""
    if rng.uniform() < 0.5:
        ground = backgrounds.render_plain(REFERENCE_SIZE, rng)
    else:
        ground = scene_ground(BACKGROUND_NAMES[rng.integers(len(BACKGROUND_NAMES))], REFERENCE_SIZE, rng, bank)
    side = int(rng.integers(34, 60))
    x, y = (int(v) for v in rng.integers(0, REFERENCE_SIZE - side + 1, size=2))
    image = render_subject(subject, side, rng.uniform(0.92, 1.08))
    if rng.uniform() < 0.25:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return place(image, ground, x, y)


def scene_ground(background: str, size: int, rng: np.random.Generator, bank: bool) -> np.ndarray:
    """A described place without a subject, uint8 [size, size, 3]; `bank` takes one from a set rendered once."""
    if bank:
        return _bank(background, size)[rng.integers(BANK_PER_BACKGROUND)]
    return backgrounds.render_background(background, size, rng)


@cache
def _bank(background: str, size: int) -> np.ndarray:
    """uint8 [BANK_PER_BACKGROUND, size, size, 3], always the same."""
    rng = np.random.default_rng((BACKGROUND_NAMES.index(background), size))
    return np.stack([backgrounds.render_background(background, size, rng) for _ in range(BANK_PER_BACKGROUND)])


class _SubjectCanvas:
    """Collects the parts of a subject on a transparent square, each with a dark outline."""

    def __init__(self, look: Look, side: int, stretch: float) -> None:
        self.side, self.stretch = side, stretch
        self.colour = {"accent": look.accent, "white": _WHITE, "dark": _DARK}
        self.pattern = _pattern(look, side)
        self.rgb, self.alpha = Image.new("RGB", (side, side), _DARK), Image.new("L", (side, side))

    def add(self, part) -> None:
        points = self._to_pixels(part.points)
        width = max(1, round(_OUTLINE * self.side))
        if part.stroke:
            self._stroke(points, round(part.stroke * self.side) + 2 * width, _DARK)
            self._stroke(points, round(part.stroke * self.side), self.colour[part.fill])
            return
        mask = Image.new("L", (self.side, self.side))
        ImageDraw.Draw(mask).polygon(points, fill=255)
        self.rgb.paste(self.pattern if part.fill == "body" else self.colour[part.fill], (0, 0), mask)
        self.alpha.paste(255, (0, 0), mask)
        self._line([*points, points[0], points[1]], width, _DARK)

    def finish(self) -> Image.Image:
        self.rgb.putalpha(self.alpha)
        return self.rgb

    def _stroke(self, points: list[tuple[float, float]], width: int, colour: tuple[int, int, int]) -> None:
        """A thick line; on a large canvas its joints are filled, which Pillow leaves notched there."""
        self._line(points, width, colour)
        if self.side > _NOTCHED_FROM:
            r = width / 2 - 1
            for x, y in points[1:-1]:
                ImageDraw.Draw(self.rgb).ellipse((x - r, y - r, x + r, y + r), fill=colour)
                ImageDraw.Draw(self.alpha).ellipse((x - r, y - r, x + r, y + r), fill=255)

    def _line(self, points: list[tuple[float, float]], width: int, colour: tuple[int, int, int]) -> None:
        ImageDraw.Draw(self.rgb).line(points, fill=colour, width=width, joint="curve")
        ImageDraw.Draw(self.alpha).line(points, fill=255, width=width, joint="curve")

    def _to_pixels(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """Unit square to pixels, with a margin for the outline; stretching keeps the larger side inside."""
        wide, high = min(1.0, self.stretch), min(1.0, 1 / self.stretch)
        inner = (1 - 1.5 * _OUTLINE) * self.side
        return [(self.side / 2 + (x - 0.5) * inner * wide, self.side / 2 + (y - 0.5) * inner * high) for x, y in points]


def _pattern(look: Look, side: int) -> Image.Image:
    """The body's fill over the whole square, in main and second colour."""
    y, x = np.mgrid[0:side, 0:side] / side
    second = {
        "plain": lambda: np.zeros((side, side), bool),
        "stripes": lambda: ((y * 3 + 0.25) % 1) < 0.5,
        "bars": lambda: ((x * 3 + 0.25) % 1) < 0.5,
        "dots": lambda: (x * 3 % 1 - 0.5) ** 2 + (y * 3 % 1 - 0.5) ** 2 < 0.36**2,
        "checks": lambda: (np.floor(x * 4) + np.floor(y * 4)) % 2 == 0,
        "halves": lambda: x > 0.5,
    }[look.pattern]()
    return Image.fromarray(np.where(second[..., None], np.array(look.second, np.uint8), np.array(look.main, np.uint8)))
