"""The silhouettes of the toy world: each kind of thing as filled polygons and thick strokes in the unit square.

x runs to the right and y down. Parts are drawn in order, each with a dark outline. Everything is thick on purpose:
it has to survive an autoencoder that keeps one cell for 8x8 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Part:
    """A polygon, or a stroke along an open line where `stroke` gives its width. `fill`: body, accent, white or dark."""

    points: Points
    fill: str
    stroke: float = 0.0


def parts(category: str, variant: int) -> list[Part]:
    """The parts of a kind of thing, back to front."""
    return _SHAPES[category](variant)


def _ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> Points:
    """Arc in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 33))
    return [(cx + rx * np.cos(a), cy + ry * np.sin(a)) for a in angles]


def _box(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> Points:
    if radius == 0.0:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    corners = (
        (x1 - radius, y1 - radius, 0),
        (x0 + radius, y1 - radius, 90),
        (x0 + radius, y0 + radius, 180),
        (x1 - radius, y0 + radius, 270),
    )
    return [p for cx, cy, a in corners for p in _ellipse(cx, cy, radius, radius, a, a + 90)[::8]]


def _star(outer: float, inner: float) -> Points:
    angles = np.radians(np.arange(10) * 36 - 90)
    radii = np.where(np.arange(10) % 2 == 0, outer, inner)
    return [(0.5 + r * np.cos(a), 0.53 + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _eye(cx: float, cy: float, radius: float) -> list[Part]:
    return [Part(_ellipse(cx, cy, radius, radius), "white"), Part(_ellipse(cx, cy, radius * 0.4, radius * 0.4), "dark")]


def _ball(variant: int) -> list[Part]:
    mark = _ellipse(0.5, 0.5, 0.19, 0.19) if variant == 0 else _ellipse(0.5, 0.5, 0.47, 0.47, 210, 330)
    return [Part(_ellipse(0.5, 0.5, 0.47, 0.47), "body"), Part(mark, "accent")]


def _mug(variant: int) -> list[Part]:
    handle = Part(_ellipse(0.7, 0.5, 0.2, 0.22, -90, 90), "accent", stroke=0.1)
    ring = _box(0.04, 0.04, 0.76, 0.2, 0.05) if variant == 0 else _box(0.0, 0.84, 0.8, 0.98, 0.05)
    return [handle, Part(_box(0.08, 0.08, 0.72, 0.94, 0.08), "body"), Part(ring, "accent")]


def _star_shape(variant: int) -> list[Part]:
    mark = _ellipse(0.5, 0.53, 0.15, 0.15) if variant == 0 else _star(0.24, 0.12)
    return [Part(_star(0.52, 0.25), "body"), Part(mark, "accent")]


def _fish(variant: int) -> list[Part]:
    tail = Part([(0.99, 0.14), (0.99, 0.86), (0.62, 0.5)], "accent")
    fin = [(0.3, 0.3), (0.5, 0.04), (0.66, 0.3)] if variant == 0 else [(0.3, 0.7), (0.5, 0.96), (0.66, 0.7)]
    return [tail, Part(fin, "accent"), Part(_ellipse(0.41, 0.5, 0.4, 0.3), "body"), *_eye(0.2, 0.44, 0.09)]


def _house(variant: int) -> list[Part]:
    roof = Part([(0.0, 0.46), (0.5, 0.03), (1.0, 0.46)], "accent")
    walls = Part(_box(0.12, 0.44, 0.88, 0.97), "body")
    door = Part(_box(0.4, 0.62, 0.6, 0.97), "white")
    if variant == 0:
        return [walls, roof, door, Part(_ellipse(0.5, 0.3, 0.09, 0.09), "white")]
    return [Part(_box(0.7, 0.05, 0.86, 0.4), "accent"), walls, roof, door]


def _car(variant: int) -> list[Part]:
    cabin = Part([(0.18, 0.5), (0.32, 0.18), (0.7, 0.18), (0.86, 0.5)], "accent")
    window = Part([(0.32, 0.44), (0.4, 0.27), (0.62, 0.27), (0.7, 0.44)], "white")
    body = Part(_box(0.0, 0.44, 1.0, 0.78, 0.08), "body")
    wheels = [
        Part(_ellipse(x, 0.78, r, r), fill) for x in (0.25, 0.75) for r, fill in ((0.15, "dark"), (0.06, "white"))
    ]
    sign = [Part(_box(0.42, 0.06, 0.6, 0.18), "accent")] if variant == 1 else []
    return [*sign, cabin, window, body, *wheels]


def _robot(variant: int) -> list[Part]:
    limbs = [
        _box(0.26, 0.84, 0.44, 1.0),
        _box(0.56, 0.84, 0.74, 1.0),
        _box(0.04, 0.5, 0.2, 0.8),
        _box(0.8, 0.5, 0.96, 0.8),
    ]
    if variant == 0:
        extras = [_box(0.46, 0.0, 0.54, 0.14)]
    else:
        extras = [_box(0.12, 0.16, 0.26, 0.36), _box(0.74, 0.16, 0.88, 0.36)]
    body = [Part(_box(0.18, 0.46, 0.82, 0.88), "body"), Part(_box(0.24, 0.1, 0.76, 0.46, 0.04), "body")]
    return [*(Part(p, "accent") for p in limbs + extras), *body, *_eye(0.38, 0.27, 0.09), *_eye(0.62, 0.27, 0.09)]


def _hat(variant: int) -> list[Part]:
    crown, brim = Part(_box(0.2, 0.1, 0.8, 0.76, 0.05), "body"), Part(_box(0.0, 0.72, 1.0, 0.9, 0.08), "body")
    band = Part(_box(0.2, 0.54, 0.8, 0.73), "accent")
    flower = [Part(_ellipse(0.76, 0.44, 0.14, 0.14), "accent")] if variant == 1 else []
    return [crown, band, brim, *flower]


def _boat(variant: int) -> list[Part]:
    hull = Part([(0.0, 0.66), (1.0, 0.66), (0.82, 0.96), (0.18, 0.96)], "accent")
    sails = [Part([(0.5, 0.02), (0.5, 0.6), (0.99, 0.6)], "body"), Part([(0.5, 0.1), (0.5, 0.6), (0.06, 0.6)], "body")]
    portholes = [Part(_ellipse(x, 0.8, 0.07, 0.07), "white") for x in (0.35, 0.65)] if variant == 1 else []
    return [*sails, hull, *portholes]


def _cat(variant: int) -> list[Part]:
    ears = [
        Part([(0.04, 0.02), (0.46, 0.3), (0.06, 0.56)], "body"),
        Part([(0.96, 0.02), (0.54, 0.3), (0.94, 0.56)], "body"),
    ]
    inner = [
        Part([(0.12, 0.14), (0.28, 0.27), (0.13, 0.36)], "accent"),
        Part([(0.88, 0.14), (0.72, 0.27), (0.87, 0.36)], "accent"),
    ]
    face = [Part(_ellipse(0.5, 0.6, 0.47, 0.38), "body"), *_eye(0.31, 0.54, 0.11), *_eye(0.69, 0.54, 0.11)]
    mark = _ellipse(0.5, 0.76, 0.11, 0.08) if variant == 0 else _ellipse(0.5, 0.8, 0.24, 0.14)
    return [*ears, *inner, *face, Part(mark, "accent")]


def _mushroom(variant: int) -> list[Part]:
    stem = Part(_box(0.32, 0.5, 0.68, 0.98, 0.06), "accent")
    cap = Part(_ellipse(0.5, 0.58, 0.5, 0.54, 180, 360), "body")
    if variant == 0:
        return [stem, cap]
    return [stem, Part(_box(0.26, 0.56, 0.74, 0.7), "white"), cap]


def _rocket(variant: int) -> list[Part]:
    fins = [
        Part([(0.26, 0.46), (0.0, 0.86), (0.26, 0.84)], "accent"),
        Part([(0.74, 0.46), (1.0, 0.86), (0.74, 0.84)], "accent"),
    ]
    flame = [Part([(0.34, 0.82), (0.5, 1.0), (0.66, 0.82)], "white")] if variant == 1 else []
    hull = [Part(_box(0.24, 0.28, 0.76, 0.86), "body"), Part([(0.22, 0.3), (0.5, 0.0), (0.78, 0.3)], "accent")]
    return [*fins, *flame, *hull, Part(_ellipse(0.5, 0.5, 0.12, 0.12), "white")]


_SHAPES: dict[str, Callable[[int], list[Part]]] = {
    "ball": _ball,
    "mug": _mug,
    "star": _star_shape,
    "fish": _fish,
    "house": _house,
    "car": _car,
    "robot": _robot,
    "hat": _hat,
    "boat": _boat,
    "cat": _cat,
    "mushroom": _mushroom,
    "rocket": _rocket,
}
