"""The places of the toy world, as pictures without a subject: broad areas of colour that vary a little by chance."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLE = 3


def render_background(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """One picture of the place, uint8 [size, size, 3]."""
    side = size * SUPERSAMPLE
    image = Image.new("RGB", (side, side))
    _PAINTERS[name](_Painter(image), rng)
    return _jitter(np.asarray(image.reduce(SUPERSAMPLE)), rng)


def render_plain(size: int, rng: np.random.Generator) -> np.ndarray:
    """A neutral background for reference pictures: one colour, or a soft gradient between two."""
    first = np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.9), rng.uniform(0.1, 1.0))) * 255
    last = first
    if rng.uniform() < 0.5:
        last = np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.9), rng.uniform(0.1, 1.0))) * 255
    ramp = np.linspace(0, 1, size)[:, None, None]
    if rng.uniform() < 0.5:
        ramp = ramp.transpose(1, 0, 2)
    return np.broadcast_to(first + (last - first) * ramp, (size, size, 3)).round().astype(np.uint8)


def _jitter(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A slightly different light for every picture."""
    gain = rng.uniform(0.92, 1.06) * rng.uniform(0.97, 1.03, size=3)
    return np.clip(picture * gain, 0, 255).astype(np.uint8)


class _Painter:
    """Draws in the unit square."""

    def __init__(self, image: Image.Image) -> None:
        self.image, self.draw, self.side = image, ImageDraw.Draw(image), image.width

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: tuple[int, int, int]) -> None:
        s = self.side
        self.draw.rectangle((round(x0 * s), round(y0 * s), round(x1 * s) - 1, round(y1 * s) - 1), fill=colour)

    def polygon(self, points: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
        self.draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=colour)

    def disc(self, x: float, y: float, rx: float, ry: float, colour: tuple[int, int, int]) -> None:
        s = self.side
        self.draw.ellipse(((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s), fill=colour)

    def gradient(self, y0: float, y1: float, top: tuple[int, int, int], bottom: tuple[int, int, int]) -> None:
        first, last = round(y0 * self.side), round(y1 * self.side)
        for y in range(first, last):
            t = (y - first) / max(1, last - first)
            colour = tuple(round(a + (b - a) * t) for a, b in zip(top, bottom, strict=True))
            self.draw.line((0, y, self.side, y), fill=colour)


def _grass(p: _Painter, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.24, 0.34)
    p.gradient(0, horizon, (190, 226, 250), (222, 240, 250))
    p.gradient(horizon, 1, (110, 190, 70), (60, 140, 45))


def _beach(p: _Painter, rng: np.random.Generator) -> None:
    sea, sand = rng.uniform(0.12, 0.2), rng.uniform(0.4, 0.5)
    p.gradient(0, sea, (150, 210, 245), (190, 230, 250))
    p.gradient(sea, sand, (20, 120, 180), (60, 180, 200))
    p.gradient(sand, 1, (245, 222, 160), (225, 190, 120))


def _snow(p: _Painter, rng: np.random.Generator) -> None:
    p.gradient(0, 1, (150, 180, 215), (185, 205, 230))
    x = rng.uniform(0.2, 0.8)
    p.disc(x, 1.1, 1.1, rng.uniform(0.68, 0.76), (245, 248, 255))


def _water(p: _Painter, rng: np.random.Generator) -> None:
    p.gradient(0, 1, (40, 140, 220), (10, 60, 150))
    start = rng.uniform(0.0, 0.12)
    for row in range(4):
        y = start + 0.08 + row * 0.25
        p.box(0, y, 1, y + 0.05, (120, 200, 245))


def _night(p: _Painter, rng: np.random.Generator) -> None:
    p.gradient(0, 1, (8, 10, 40), (35, 35, 85))
    x = rng.choice([0.14, 0.86]) + rng.uniform(-0.03, 0.03)
    p.disc(x, 0.15, 0.11, 0.11, (250, 245, 205))


def _brick_wall(p: _Painter, rng: np.random.Generator) -> None:
    p.box(0, 0, 1, 1, (205, 190, 175))
    for row in range(7):
        shift = -0.17 if row % 2 else 0.0
        for column in range(5):
            x, y = column / 3 + shift, row / 6
            p.box(x, y, x + 0.3, y + 0.135, (165, 70, 50))


def _table(p: _Painter, rng: np.random.Generator) -> None:
    edge = rng.uniform(0.36, 0.44)
    p.box(0, 0, 1, edge, (228, 222, 205))
    p.gradient(edge, 1, (165, 110, 60), (125, 78, 40))
    for k in (1, 2):
        y = edge + (1 - edge) * k / 3
        p.box(0, y, 1, y + 0.02, (85, 50, 25))


def _sunset(p: _Painter, rng: np.random.Generator) -> None:
    p.gradient(0, 0.7, (95, 45, 125), (255, 140, 50))
    x = rng.uniform(0.3, 0.7)
    p.disc(x, 0.66, 0.3, 0.3, (255, 225, 110))
    p.gradient(0.7, 1, (85, 35, 70), (45, 20, 50))


def _road(p: _Painter, rng: np.random.Generator) -> None:
    p.box(0, 0, 1, 1, (120, 175, 95))
    centre = rng.uniform(0.46, 0.54)
    p.polygon([(centre - 0.36, 0), (centre + 0.36, 0), (centre + 0.48, 1), (centre - 0.48, 1)], (95, 97, 102))
    for y in (0.0, 0.4, 0.8):
        p.box(centre - 0.035, y, centre + 0.035, y + 0.2, (240, 240, 235))


def _sky(p: _Painter, rng: np.random.Generator) -> None:
    p.gradient(0, 1, (95, 170, 240), (180, 220, 250))
    for x, y in ((0.18, 0.2), (0.85, 0.32), (0.2, 0.84), (0.82, 0.86)):
        x, y = x + rng.uniform(-0.06, 0.06), y + rng.uniform(-0.05, 0.05)
        p.disc(x, y, 0.19, 0.09, (252, 253, 255))


def _carpet(p: _Painter, rng: np.random.Generator) -> None:
    p.box(0, 0, 1, 1, (70, 60, 58))
    left = rng.uniform(0.08, 0.14)
    p.box(left - 0.05, 0, 1 - left + 0.05, 1, (225, 180, 70))
    p.box(left, 0, 1 - left, 1, (185, 20, 40))


def _forest(p: _Painter, rng: np.random.Generator) -> None:
    p.gradient(0, 0.75, (25, 70, 40), (50, 105, 60))
    shift = rng.uniform(-0.04, 0.04)
    for x in (0.1, 0.36, 0.64, 0.9):
        p.box(x + shift - 0.05, 0, x + shift + 0.05, 0.8, (75, 48, 30))
    p.gradient(0.75, 1, (60, 80, 35), (45, 55, 25))


_PAINTERS: dict[str, Callable[[_Painter, np.random.Generator], None]] = {
    "grass": _grass,
    "beach": _beach,
    "snow": _snow,
    "water": _water,
    "night": _night,
    "brick wall": _brick_wall,
    "table": _table,
    "sunset": _sunset,
    "road": _road,
    "sky": _sky,
    "carpet": _carpet,
    "forest": _forest,
}
