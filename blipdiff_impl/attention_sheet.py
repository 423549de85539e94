"""Attention maps as pictures: heat over a picture, and all maps of a run on one labelled sheet (paper Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Heat from "not looked at" to "most looked at": lightness rises all the way, so that it reads without colour too.
_HEAT = torch.tensor(
    [(0.05, 0.03, 0.2), (0.35, 0.07, 0.43), (0.74, 0.21, 0.33), (0.97, 0.56, 0.04), (0.99, 0.99, 0.64)]
)
_CELL = 160  # pixels; smaller pictures are enlarged to it
_LABEL = 22
_COLUMNS = 8


def overlay(picture: Tensor, maps: Tensor, opacity: float) -> Tensor:
    """Heat over a picture.

    Args:
        picture: `[H, W, 3]` in 0..1.
        maps: `[maps, H, W]` in 0..1.
        opacity: 0 is the picture, 1 the heat alone.

    Returns:
        `[maps, H, W, 3]` in 0..1.
    """
    return torch.lerp(picture.expand(*maps.shape, 3), heat(maps), opacity)


def heat(maps: Tensor) -> Tensor:
    """Values `[...]` in 0..1 as colours `[..., 3]`, linear between the five of the ramp."""
    place = maps.clamp(0, 1) * (len(_HEAT) - 1)
    lower = place.floor().long().clamp(max=len(_HEAT) - 2)
    return torch.lerp(_HEAT[lower], _HEAT[lower + 1], (place - lower)[..., None])


def contact_sheet(groups: Sequence[Tensor], labels: Sequence[str]) -> Tensor:
    """Pictures with a label above each, at most eight in a row.

    Args:
        groups: for each picture of the batch its cells, `[cells, H, W, 3]` in 0..1.
        labels: of the cells of a group.

    Returns:
        `[1, height, width, 3]` in 0..1.
    """
    height, width = groups[0].shape[1:3]
    scale = max(1.0, _CELL / width)
    cell = (round(height * scale), round(width * scale))
    rows = ceil(len(labels) / _COLUMNS)
    columns = ceil(len(labels) / rows)
    sheet = Image.new("RGB", (columns * cell[1], len(groups) * rows * (cell[0] + _LABEL)), "white")
    for number, group in enumerate(groups):
        for place, (picture, label) in enumerate(zip(group, labels, strict=True)):
            corner = (place % columns * cell[1], (number * rows + place // columns) * (cell[0] + _LABEL))
            _write(sheet, label, corner, cell[1])
            sheet.paste(_to_image(picture, cell), (corner[0], corner[1] + _LABEL))
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]


def _write(sheet: Image.Image, label: str, corner: tuple[int, int], width: int) -> None:
    """The label, cut to what fits."""
    font = ImageFont.load_default(14)
    while label and font.getlength(label) > width - 8:
        label = label[:-1]
    ImageDraw.Draw(sheet).text((corner[0] + 4, corner[1] + 2), label, fill="black", font=font)


def _to_image(picture: Tensor, size: tuple[int, int]) -> Image.Image:
    pixels = F.interpolate(picture.permute(2, 0, 1)[None], size=size, mode="bilinear")[0].permute(1, 2, 0)
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
