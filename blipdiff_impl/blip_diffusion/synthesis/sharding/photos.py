"""Pictures of a list from disk: upright, RGB, of bounded size."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from ..files import UnreadablePicture, read_picture
from .rejects import BAD_MASK, TOO_SMALL, UNREADABLE, Rejected

MOST_ASPECT = 16


def read_bounded(path: Path) -> Image.Image:
    """`read_picture`, but a picture that only warns of its size (from 90 million pixels on) is refused too.

    Raises:
        UnreadablePicture: names the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return read_picture(path)
        except Image.DecompressionBombWarning as error:
            raise UnreadablePicture(f"{path} cannot be read as a picture ({error}).") from error


def read_photo(path: Path, side: int, least_side: int) -> Image.Image:
    """The photo, its shorter side scaled down to `side`.

    Raises:
        Rejected: it cannot be read, or `check_size` refuses it.
    """
    try:
        photo = read_bounded(path)
    except UnreadablePicture as error:
        raise Rejected(UNREADABLE, str(error)) from error
    check_size(photo.size, least_side, "photo")
    return scaled(photo, side) if min(photo.size) > side else photo


def check_size(size: tuple[int, int], least_side: int, what: str) -> None:
    """Refuse what is too small to be matted, or so narrow that its scaled copy would be too long for a JPEG.

    Args:
        size: width, height.

    Raises:
        Rejected: a side of fewer than `least_side` pixels, or `MOST_ASPECT` times as long as the other.
    """
    width, height = size
    if min(size) < least_side:
        raise Rejected(TOO_SMALL, f"The {what} is {width}x{height} pixels, fewer than {least_side} a side.")
    if max(size) > MOST_ASPECT * min(size):
        raise Rejected(TOO_SMALL, f"The {what} is {width}x{height} pixels, longer than {MOST_ASPECT} to 1.")


def read_mask(path: Path, photo: Image.Image) -> Image.Image:
    """A mask of the photo's proportions, scaled to the photo, mode L.

    Raises:
        Rejected: it cannot be read or has other proportions.
    """
    try:
        mask = read_bounded(path).convert("L")
    except UnreadablePicture as error:
        raise Rejected(BAD_MASK, str(error)) from error
    # Two tools may round the shorter side differently, by a pixel of the smaller picture.
    if abs(mask.width * photo.height - mask.height * photo.width) > max(*mask.size, *photo.size):
        raise Rejected(
            BAD_MASK, f"The mask is {mask.width}x{mask.height} and the photo {photo.width}x{photo.height} pixels."
        )
    return mask if mask.size == photo.size else mask.resize(photo.size, Image.Resampling.BILINEAR)


def scaled(picture: Image.Image, side: int) -> Image.Image:
    """The picture with its shorter side of `side` pixels."""
    scale = side / min(picture.size)
    size = tuple(max(side, round(edge * scale)) for edge in picture.size)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)
