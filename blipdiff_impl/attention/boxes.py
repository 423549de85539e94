"""Boxes: from what an artist draws to shares of the picture, and from those to the cells of a layer or a mask
(docs/method.md 13.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import SubjectError, shown

# An edge this close to a line of the grid, in cells, lies on it: shares such as 0.55 have no exact binary form.
_ON_THE_LINE = 1e-3
_SIDES = ("x", "y", "width", "height")
_DRAW_AGAIN = "Draw the box again, inside the canvas."


@dataclass(frozen=True)
class Box:
    """A rectangle as shares of the picture: 0 <= left < right <= 1 and 0 <= top < bottom <= 1, y from the top."""

    left: float
    top: float
    right: float
    bottom: float


def box_from_shares(left: float, top: float, right: float, bottom: float) -> Box:
    """A box from four numbers; corners in any order, what lies outside 0..1 is cut off.

    Raises:
        SubjectError: a number is none, or nothing of the box lies in the picture.
    """
    numbers = [
        _number(value, name) for name, value in zip(("x1", "y1", "x2", "y2"), (left, top, right, bottom), strict=True)
    ]
    return _inside(*numbers, f"x1 {left}, y1 {top}, x2 {right}, y2 {bottom} in shares of the picture")


def boxes_from_pixels(value: object, canvas: tuple[int, int]) -> list[Box]:
    """Boxes in the host's form: dicts with x, y, width and height in pixels.

    Args:
        value: one dict, a list of dicts, or a list of lists of dicts (one list for each picture).
        canvas: (width, height) in pixels of the canvas that they were drawn on.

    Returns:
        All boxes in their order; widths and heights below 0 go to the other side, what lies outside is cut off.

    Raises:
        SubjectError: no box is there, one has another form or no number, or nothing of it lies on the canvas.
    """
    width, height = (_number(side, name) for side, name in zip(canvas, ("canvas width", "canvas height"), strict=True))
    if not (width >= 1 and height >= 1):
        raise SubjectError(f"The canvas is {width:g}x{height:g} pixels; at least 1x1 is needed to draw a box on.")
    found = _dicts(value)
    if not found:
        raise SubjectError("There is no box in what is connected as box: nothing was drawn or detected. Draw one.")
    return [_from_dict(each, width, height) for each in found]


def box_from_pixels(value: object, canvas: tuple[int, int], number: int = 1) -> Box:
    """One of the boxes of `boxes_from_pixels`, the first by default.

    Raises:
        SubjectError: there are fewer, or see `boxes_from_pixels`.
    """
    found = boxes_from_pixels(value, canvas)
    if not 1 <= number <= len(found):
        raise SubjectError(f"Box {number} is asked for, but {len(found)} came in. Choose a number from 1 to that.")
    return found[number - 1]


def box_from_mask(mask: Tensor) -> Box:
    """The tight rectangle around what is white (above a half) in a mask `[H, W]` or `[1, H, W]` of any size.

    Raises:
        SubjectError: another shape, NaN, or nothing is white.
    """
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3) or 0 in mask.shape or (mask.ndim == 3 and len(mask) > 1):
        shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise SubjectError(f"The mask that gives the box should be one picture [1, height, width], but it is {shape}.")
    mask = mask.detach().to("cpu", torch.float32).reshape(mask.shape[-2:])
    if not torch.isfinite(mask).all():
        raise SubjectError("The mask that gives the box holds NaN or infinite values; check the node that made it.")
    white = mask > 0.5
    rows, columns = (white.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    if not len(rows):
        raise SubjectError(
            "The mask that gives the box is empty: nothing in it is above a half. Paint the subject's place."
        )
    (height, width) = mask.shape
    return Box(
        int(columns[0]) / width, int(rows[0]) / height, (int(columns[-1]) + 1) / width, (int(rows[-1]) + 1) / height
    )


def mask_from_boxes(boxes: Sequence[Box], canvas: tuple[int, int]) -> Tensor:
    """White where any of the boxes is, float32 `[1, height, width]`; each covers at least one pixel.

    Args:
        canvas: (width, height) in pixels.
    """
    width, height = canvas
    mask = torch.zeros(1, height, width)
    for box in boxes:
        rows, columns = _pixels(box.top, box.bottom, height), _pixels(box.left, box.right, width)
        mask[:, rows, columns] = 1
    return mask


def _pixels(first: float, last: float, length: int) -> slice:
    start = min(round(first * length), length - 1)
    return slice(start, max(round(last * length), start + 1))


def box_tensor(boxes: Sequence[Box]) -> Tensor:
    """float32 `[boxes, 4]`: left, top, right, bottom."""
    return torch.tensor([(box.left, box.top, box.right, box.bottom) for box in boxes], dtype=torch.float32).view(-1, 4)


def box_masks(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which cells of a layer each box covers, bool `[..., height * width]` row by row.

    A cell that is touched is covered; a box covers at least one cell, one without area none.

    Args:
        boxes: left, top, right, bottom in 0..1, `[..., 4]`.
        grid: (height, width) of the layer, its true one.
    """
    boxes = boxes.double()
    down = _covered(boxes[..., 1], boxes[..., 3], grid[0])
    across = _covered(boxes[..., 0], boxes[..., 2], grid[1])
    return (down[..., :, None] & across[..., None, :]).flatten(-2)


def boxes_in_area(boxes: Tensor, latent: tuple[int, int], area: tuple[int, int, int, int]) -> Tensor:
    """Boxes as shares of a part of the picture, `[..., 4]`; those that do not reach into it are all zero.

    Args:
        boxes: in shares of the whole picture, `[..., 4]`.
        latent: (height, width) of the whole latent.
        area: (height, width, top, left) of the part, in cells of the latent.
    """
    height, width, top, left = area
    moved = boxes.double() * boxes.new_tensor([latent[1], latent[0]] * 2) - boxes.new_tensor([left, top] * 2)
    shares = (moved / boxes.new_tensor([width, height] * 2)).clamp(0, 1)
    reaches = (shares[..., 2:] > shares[..., :2]).all(dim=-1, keepdim=True)
    return (shares * reaches).to(boxes)


def _covered(first: Tensor, last: Tensor, cells: int) -> Tensor:
    """Cells of one axis from the one where the box begins to the one where it ends, bool `[..., cells]`."""
    start = (first * cells + _ON_THE_LINE).floor().clamp(max=cells - 1)
    stop = torch.maximum((last * cells - _ON_THE_LINE).ceil(), start + 1)
    place = torch.arange(cells, device=first.device)
    return (place >= start[..., None]) & (place < stop[..., None]) & (last > first)[..., None]


def _dicts(value: object) -> list[dict]:
    """The dicts of one, of a list, or of a list of lists."""
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list | tuple):
        raise _other_form(value)
    flat = [inner for item in value for inner in (item if isinstance(item, list | tuple) else [item])]
    if wrong := [item for item in flat if not isinstance(item, dict)]:
        raise _other_form(wrong[0])
    return flat


def _from_dict(box: dict, width: float, height: float) -> Box:
    if missing := [name for name in _SIDES if name not in box]:
        raise SubjectError(f"A box has no {', '.join(missing)}; it needs {', '.join(_SIDES)} in pixels. {_DRAW_AGAIN}")
    x, y, across, down = (_number(box[name], f"the box's {name}") for name in _SIDES)
    described = f"x {x:g}, y {y:g}, width {across:g}, height {down:g} on a canvas of {width:g}x{height:g} pixels"
    return _inside(x / width, y / height, (x + across) / width, (y + down) / height, described)


def _inside(x1: float, y1: float, x2: float, y2: float, described: str) -> Box:
    left, right = sorted((x1, x2))
    top, bottom = sorted((y1, y2))
    if left == right or top == bottom:
        raise SubjectError(f"The box has no area: {described}. {_DRAW_AGAIN}")
    left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in (left, top, right, bottom))
    if left >= right or top >= bottom:
        raise SubjectError(f"The box lies outside the picture: {described}. {_DRAW_AGAIN}")
    return Box(left, top, right, bottom)


def _number(value: Any, name: str) -> float:
    try:
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise SubjectError(f"{name} = {shown(value)} is no number that a box can have. {_DRAW_AGAIN}")
    return number


def _other_form(value: object) -> SubjectError:
    return SubjectError(
        f"What is connected as box is {shown(value)}; expected a box with {', '.join(_SIDES)} in pixels, or a list "
        "of such boxes."
    )
