"""The subject on another background, cut to its box (docs/method.md 9.2: "composite", "input")."""

from __future__ import annotations

from math import ceil, floor

from PIL import Image
from torch import Tensor

from ....files import as_tensor
from ....pictures.matting.trimap import surroundings
from ....pictures.pixels import to_pillow
from .photos import check_size
from .rejects import FULL, NO_SUBJECT, THIN, Rejected
from .settings import SynthesisSettings

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def subject_box(shares: tuple[float, ...], alpha: Tensor) -> Box:
    """The subject's box in pixels: the list's, widened to whole pixels, or around all alpha above a half.

    Args:
        shares: left, top, right, bottom as shares of width and height; empty where the list has none.
        alpha: `[H, W]`.

    Raises:
        Rejected: no box is given, and alpha is above a half nowhere.
    """
    height, width = alpha.shape
    if shares:
        left, top, right, bottom = shares
        return floor(left * width), floor(top * height), ceil(right * width), ceil(bottom * height)
    inside = alpha > 0.5
    if not inside.any():
        raise Rejected(NO_SUBJECT, f"Alpha is above a half nowhere, the highest is {float(alpha.max()):.2f}.")
    rows, columns = surroundings(inside, 0)
    return columns.start, rows.start, columns.stop, rows.stop


def cut(plane: Tensor, box: Box) -> Tensor:
    """The part of `[H, W, ...]` in a box."""
    left, top, right, bottom = box
    return plane[top:bottom, left:right]


def check_subject(alpha: Tensor, settings: SynthesisSettings) -> None:
    """Refuse a subject by its box's alpha `[H, W]`.

    Raises:
        Rejected: the box is too small or narrow, or alpha fills too little or too much of it.
    """
    height, width = alpha.shape
    check_size((width, height), settings.least_side, "subject's box")
    cover = float(alpha.mean())
    if cover < settings.least_cover:
        raise Rejected(THIN, f"The subject covers {cover:.3f} of its box, less than {settings.least_cover:g}.")
    if cover > settings.most_cover:
        raise Rejected(FULL, f"The subject covers {cover:.3f} of its box, more than {settings.most_cover:g}.")


def blend(foreground: Tensor, alpha: Tensor, ground: Image.Image) -> Image.Image:
    """`alpha F + (1 - alpha) B`, rounded to 8 bit.

    Args:
        foreground: `[H, W, 3]` in 0..1; alpha: `[H, W]` in 0..1.
        ground: the background, of the same size.
    """
    alpha = alpha[..., None]
    mixed = alpha * foreground + (1 - alpha) * as_tensor(ground)
    return to_pillow(mixed)
