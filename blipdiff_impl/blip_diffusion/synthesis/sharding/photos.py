"""Pictures of a list from disk: upright, RGB, of bounded size."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ....files import UnreadablePicture, read_picture
from ....files import read_mask as read_mask_file
from .rejects import BAD_MASK, TOO_SMALL, UNREADABLE, Rejected

MOST_ASPECT = 16


def read_photo(path: Path, side: int, least_side: int) -> Image.Image:
    """The photo, its shorter side scaled down to `side`.

    Raises:
        Rejected: it cannot be read, or `check_size` refuses it.
    """
    try:
        photo = read_picture(path)
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
        mask = read_mask_file(path)
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
    width, height = (max(side, round(edge * scale)) for edge in picture.size)
    size = width, height
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)
