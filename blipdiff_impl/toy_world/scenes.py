"""Pictures with one to three things, where each is, and the words for them: "a mug and a robot on the beach"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..prompts.rows import ROW, ROW_POSITIONS
from . import prompts
from .prompts import VECTORS
from .render import PICTURE_SIZE, render_subject, scene_ground
from .world import ToySubject, captions

MAX_THINGS = 3
MAX_OVERLAP = 0.05
HALF = 127  # a pixel whose mask is above this belongs to the thing
SIDES = {1: (0.35, 0.8), 2: (0.34, 0.56), 3: (0.27, 0.42)}
"""Smallest and largest side of a thing, as a share of the picture's shorter side, by how many there are."""

EMPTY_SHARE, TEXT_SHARE, ROW_SHARE, PLACE_FIRST_SHARE = 0.1, 0.25, 0.15, 0.2

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class RenderedScene:
    """A picture uint8 [H, W, 3]; how much of each pixel is each thing, uint8 [n, H, W]; boxes (x0, y0, x1, y1)."""

    picture: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray

    @property
    def rectangles(self) -> np.ndarray:
        """Around the things, as somebody would draw boxes: (x0, y0, x1, y1), [n, 4]."""
        return np.stack([box_around(mask > HALF) for mask in self.masks])


def draw_boxes(count: int, width: int, height: int, rng: np.random.Generator) -> list[Box]:
    """Square boxes for `count` things, inside the picture, that overlap by `MAX_OVERLAP` of the smaller at most."""
    low, high = (share * min(width, height) for share in SIDES[count])
    while True:
        boxes: list[Box] = []
        for _ in range(30):
            side = round(rng.uniform(low, high))
            x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
            box = (x, y, x + side, y + side)
            if all(_overlap(box, other) <= MAX_OVERLAP for other in boxes):
                boxes.append(box)
            if len(boxes) == count:
                return boxes


def box_around(mask: np.ndarray) -> np.ndarray:
    """(x0, y0, x1, y1) around what is set of a mask [H, W], which is not empty."""
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


def halves_boxes(size: int, rng: np.random.Generator) -> list[Box]:
    """Two things side by side in a picture twice as wide as high, each as `render_picture` would place it."""
    boxes = []
    for number in range(2):
        side = round(int(rng.integers(62, 77)) * size / PICTURE_SIZE)
        free, jitter = size - side, rng.uniform(-4, 4, size=2) * size / PICTURE_SIZE
        x, y = round(number * size + free / 2 + jitter[0]), round(free * 0.55 + jitter[1])
        boxes.append((x, y, x + side, y + side))
    return boxes


def render_scene(
    subjects: list[ToySubject], boxes: list[Box], background: str, size: tuple[int, int], rng: np.random.Generator
) -> RenderedScene:
    """Draw things into square boxes, the first at the back; the ground is taken from the set that is rendered once.

    Args:
        size: (width, height); a picture that is not square shows the square place squeezed.
    """
    ground = Image.fromarray(scene_ground(background, max(size), rng, bank=True))
    picture = ground if ground.size == size else ground.resize(size, Image.Resampling.BOX)
    masks = []
    for subject, (x0, y0, x1, _) in zip(subjects, boxes, strict=True):
        thing = render_subject(subject, x1 - x0, rng.uniform(0.95, 1.05))
        alpha = Image.new("L", size)
        alpha.paste(thing.getchannel("A"), (x0, y0))
        layer = Image.new("RGB", size)
        layer.paste(thing.convert("RGB"), (x0, y0))
        picture = Image.composite(layer, picture, alpha)
        masks.append(np.asarray(alpha))
    return RenderedScene(np.asarray(picture), np.stack(masks), np.array(boxes))


def scene_text(kinds: list[str], phrase: str, commas: bool, place_first: bool) -> str:
    """A scene in words: all things joined by "and", or the first ones by commas; the place last or first."""
    things = [f"a {kind}" for kind in kinds]
    if commas and len(things) > 2:
        joined = f"{', '.join(things[:-1])} and {things[-1]}"
    else:
        joined = " and ".join(things)
    return f"{phrase}, {joined}" if place_first else f"{joined} {phrase}"


@dataclass(frozen=True)
class SceneRow:
    """Token ids [77] (places of vectors hold the end token), and the first place of each thing's vectors or -1."""

    ids: np.ndarray
    places: tuple[int, ...]


def scene_row(text: str, kinds: list[str], shown: tuple[int, ...]) -> SceneRow:
    """A text with the vectors of the things `shown` (indices in the order of the text) before their words."""
    words, places, kind_ids = list(prompts.token_ids(text)), [-1] * len(kinds), [prompts.token_ids(k)[0] for k in kinds]
    found, start = [], 0
    for word in kind_ids:
        start = words.index(word, start)
        found.append(start)
        start += 1
    for index in reversed(range(len(kinds))):
        if index in shown:
            words[found[index] : found[index]] = [prompts.CLIP_END] * VECTORS
    for index in range(len(kinds)):
        if index in shown:
            places[index] = 1 + found[index] + VECTORS * sum(other < index for other in shown)
    words = words[:ROW_POSITIONS]
    ids = [prompts.CLIP_START, *words, *[prompts.CLIP_END] * (ROW - 1 - len(words))]
    return SceneRow(np.array(ids), tuple(places))


def word_column(row: SceneRow, kind: str, number: int) -> int:
    """Where the `number`-th occurrence of a kind's word stands in a row (0: the first)."""
    return int(np.flatnonzero(row.ids == prompts.token_ids(kind)[0])[number])


def draw_text(kinds: list[str], background: str, rng: np.random.Generator) -> str:
    """A scene in words, as somebody might put it."""
    phrases = captions(background)
    phrase = phrases[rng.integers(len(phrases))]
    return scene_text(kinds, phrase, rng.uniform() < 0.5, rng.uniform() < PLACE_FIRST_SHARE)


def _overlap(a: Box, b: Box) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0, wide) * max(0, high) / min((a[2] - a[0]) ** 2, (b[2] - b[0]) ** 2)
