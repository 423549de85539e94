"""A picture of the boxes: what stands where, before anything is sampled."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from ..files import as_tensor
from ..pictures.pixels import to_pillow
from .subjects import PlacedSubject

_LONG_SIDE = 768  # pixels
_CANVAS = (40, 40, 44)
_COLOURS = ("#e6a23c", "#5b9bd5", "#70ad47", "#d1607c", "#9b7fd1", "#4fb3a9", "#c9c14a", "#b07a55")
_LINE, _FONT, _MARGIN = 3, 16, 4
_PALE = 0.55  # of a reference inside its box


def box_sheet(subjects: Sequence[PlacedSubject]) -> Tensor:
    """The canvas of the first subject with every subject's box, reference and phrase on it.

    Returns:
        `[1, height, width, 3]` in 0..1, the longer side 768 pixels.
    """
    width, height = subjects[0].canvas
    scale = _LONG_SIDE / max(width, height)
    sheet = Image.new("RGB", (max(1, round(width * scale)), max(1, round(height * scale))), _CANVAS)
    for subject in subjects:
        _paste(sheet, subject)
    for number, subject in enumerate(subjects, 1):  # above all references, so that no box hides another's edge
        _outline(sheet, subject, number)
    return as_tensor(sheet)[None]


def _corners(sheet: Image.Image, subject: PlacedSubject) -> tuple[int, int, int, int]:
    box, (width, height) = subject.box, sheet.size
    left, top = min(round(box.left * width), width - 1), min(round(box.top * height), height - 1)
    return left, top, max(left + 1, round(box.right * width)), max(top + 1, round(box.bottom * height))


def _paste(sheet: Image.Image, subject: PlacedSubject) -> None:
    """The reference in the middle of its box, as large as fits."""
    left, top, right, bottom = _corners(sheet, subject)
    drawn = ImageOps.contain(to_pillow(subject.image[0]), (right - left, bottom - top))
    corner = ((left + right - drawn.width) // 2, (top + bottom - drawn.height) // 2)
    under = sheet.crop((*corner, corner[0] + drawn.width, corner[1] + drawn.height))
    sheet.paste(Image.blend(under, drawn, _PALE), corner)


def _outline(sheet: Image.Image, subject: PlacedSubject, number: int) -> None:
    left, top, right, bottom = _corners(sheet, subject)
    draw, font, colour = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT), _COLOURS[(number - 1) % len(_COLOURS)]
    draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=_LINE)
    label = f"{number} {subject.phrase}" + (f" x{subject.strength:g}" if subject.strength != 1 else "")
    while len(label) > 1 and font.getlength(label) > max(right - left, 3 * _FONT) - 2 * _MARGIN:
        label = label[:-1]
    across = font.getlength(label) + 2 * _MARGIN
    draw.rectangle((left, top, left + across, top + _FONT + 2 * _MARGIN), fill=colour)
    draw.text((left + _MARGIN, top + _MARGIN), label, fill="black", font=font)
