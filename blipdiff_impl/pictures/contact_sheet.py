"""Pictures of one batch side by side on a sheet, each with a label above it."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import SubjectError
from ..files import as_tensor
from .pixels import to_pillow

_CELL = 192  # pixels; narrower pictures are enlarged to it, so that their labels can be read
_LABEL, _FONT, _GAP = 22, 14, 4
_MOST_COLUMNS = 8  # of a sheet that chooses its columns


def contact_sheet(pictures: Tensor, columns: int, labels: Sequence[str] = ()) -> Tensor:
    """All pictures on white, row by row.

    Args:
        pictures: `[N, H, W, 1 | 3 | 4]` in 0..1; transparency is left out.
        columns: pictures in a row.
        labels: none, or one for each picture; a label is cut to the picture's width.

    Returns:
        `[1, height, width, 3]` in 0..1.

    Raises:
        SubjectError: no pictures, or another number of labels than pictures.
    """
    if pictures.ndim != 4 or 0 in pictures.shape or pictures.shape[-1] not in (1, 3, 4):
        raise SubjectError(
            f"The pictures should be a batch [pictures, height, width, 1, 3 or 4], but they are {list(pictures.shape)}."
        )
    count, height, width = pictures.shape[:3]
    if labels and len(labels) != count:
        raise SubjectError(
            f"There are {len(labels)} labels for {count} pictures. Write one line for each picture, or none at all."
        )
    scale = max(1.0, _CELL / width)
    cell = (round(width * scale), round(height * scale))
    head = _LABEL if labels else 0
    columns = min(columns, count)
    rows = ceil(count / columns)
    step = (cell[0] + _GAP, cell[1] + head + _GAP)
    sheet = Image.new("RGB", (columns * step[0] - _GAP, rows * step[1] - _GAP), "white")
    for place, picture in enumerate(pictures):
        corner = (place % columns * step[0], place // columns * step[1])
        drawn = to_pillow(picture[..., :3].expand(-1, -1, 3)).resize(cell, Image.Resampling.BICUBIC)
        sheet.paste(drawn, (corner[0], corner[1] + head))
        if labels:
            _write(sheet, labels[place], corner, cell[0])
    return as_tensor(sheet)[None]


def group_sheet(groups: Sequence[Tensor], labels: Sequence[str]) -> Tensor:
    """Groups of pictures below each other, each in rows of its own of at most eight.

    Args:
        groups: each `[len(labels), H, W, 1 | 3 | 4]` in 0..1, all of one size.
        labels: of the pictures of every group.

    Returns:
        `[1, height, width, 3]` in 0..1.
    """
    rows = ceil(len(labels) / _MOST_COLUMNS)
    columns = ceil(len(labels) / rows)
    spare = rows * columns - len(labels)
    blank = groups[0].new_ones(spare, *groups[0].shape[1:])
    pictures = torch.cat([part for group in groups for part in (group, blank)])
    return contact_sheet(pictures, columns, [*labels, *[""] * spare] * len(groups))


def _write(sheet: Image.Image, label: str, corner: tuple[int, int], width: int) -> None:
    font = ImageFont.load_default(_FONT)
    while label and font.getlength(label) > width:
        label = label[:-1]
    ImageDraw.Draw(sheet).text((corner[0] + 2, corner[1] + 2), label, fill="black", font=font)
