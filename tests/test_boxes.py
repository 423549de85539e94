"""Boxes: every form that they come in, and the cells of a layer that they cover."""

import math

import numpy as np
import pytest
import torch

from blipdiff_impl.attention.boxes import (
    Box,
    box_from_mask,
    box_from_pixels,
    box_from_shares,
    box_masks,
    box_tensor,
    boxes_from_pixels,
    boxes_in_area,
    mask_from_boxes,
)
from blipdiff_impl.errors import SubjectError

CANVAS = (1280, 768)
DRAWN = {"x": 320, "y": 192, "width": 640, "height": 288}
SAME = Box(0.25, 0.25, 0.75, 0.625)
NAN = float("nan")


def mask_of(height, width, rows, columns):
    mask = torch.zeros(1, height, width)
    mask[:, slice(*rows), slice(*columns)] = 1
    return mask


@pytest.mark.parametrize("value", [
    DRAWN, [DRAWN], [[DRAWN]], ([DRAWN],), [[], [DRAWN]], {**DRAWN, "label": "dog", "score": 0.9},
    {name: float(value) for name, value in DRAWN.items()}, {name: np.int64(value) for name, value in DRAWN.items()},
    {name: torch.tensor(float(value)) for name, value in DRAWN.items()},
    {"x": 960, "y": 480, "width": -640, "height": -288}, {"x": 960, "y": 192, "width": -640, "height": 288},
])  # fmt: skip
def test_forms_of_the_host_are_the_same_box(value):
    assert boxes_from_pixels(value, CANVAS) == [SAME]


def test_numbers_and_masks_are_the_same_box():
    assert box_from_shares(0.25, 0.25, 0.75, 0.625) == box_from_shares(0.75, 0.625, 0.25, 0.25) == SAME
    for mask in (mask_of(768, 1280, (192, 480), (320, 960)), mask_of(8, 4, (2, 5), (1, 3))):
        assert box_from_mask(mask) == box_from_mask(mask[0]) == SAME
    assert box_from_mask(torch.ones(1, 5, 7)) == Box(0, 0, 1, 1)


def test_a_mask_counts_from_a_half():
    mask = 0.5 * torch.ones(4, 4)
    mask[1, 2] = 0.6
    assert box_from_mask(mask) == Box(0.5, 0.25, 0.75, 0.5)


def test_what_lies_outside_is_cut_off():
    assert box_from_shares(-3, 0.5, 0.5, 7) == Box(0, 0.5, 0.5, 1)
    assert boxes_from_pixels({"x": -100, "y": 384, "width": 740, "height": 9999}, CANVAS) == [Box(0, 0.5, 0.5, 1)]


def test_several_boxes_keep_their_order():
    other = {"x": 0, "y": 0, "width": 640, "height": 768}
    assert boxes_from_pixels([[DRAWN], [other, DRAWN]], CANVAS) == [SAME, Box(0, 0, 0.5, 1), SAME]
    assert box_from_pixels([DRAWN, other], CANVAS, 2) == Box(0, 0, 0.5, 1)
    with pytest.raises(SubjectError, match="Box 3 is asked for, but 2 came in"):
        box_from_pixels([DRAWN, other], CANVAS, 3)


@pytest.mark.parametrize("make, said", [
    (lambda: boxes_from_pixels([], CANVAS), "There is no box"),
    (lambda: boxes_from_pixels([[], []], CANVAS), "There is no box"),
    (lambda: boxes_from_pixels(None, CANVAS), "is None; expected a box with x, y, width, height"),
    (lambda: boxes_from_pixels("0,0,1,1", CANVAS), "is '0,0,1,1'; expected a box"),
    (lambda: boxes_from_pixels([[1, 2, 3, 4]], CANVAS), "is 1; expected a box"),
    (lambda: boxes_from_pixels({"x": 1, "y": 2}, CANVAS), "has no width, height"),
    (lambda: boxes_from_pixels({**DRAWN, "x": NAN}, CANVAS), "the box's x = nan is no number"),
    (lambda: boxes_from_pixels({**DRAWN, "x": "12"}, CANVAS), "the box's x = '12' is no number"),
    (lambda: boxes_from_pixels({**DRAWN, "height": math.inf}, CANVAS), "the box's height = inf"),
    (lambda: boxes_from_pixels({**DRAWN, "height": 10**400}, CANVAS), "the box's height = "),
    (lambda: boxes_from_pixels({**DRAWN, "y": None}, CANVAS), "the box's y = None"),
    (lambda: boxes_from_pixels({**DRAWN, "width": 0}, CANVAS), "no area: x 320, y 192, width 0, height 288 on"),
    (lambda: boxes_from_pixels({**DRAWN, "x": 1280}, CANVAS), "outside the picture: x 1280, y 192"),
    (lambda: boxes_from_pixels({**DRAWN, "x": -640}, CANVAS), "outside the picture"),
    (lambda: boxes_from_pixels(DRAWN, (0, 768)), "The canvas is 0x768 pixels"),
    (lambda: boxes_from_pixels(DRAWN, (NAN, 768)), "canvas width = nan"),
    (lambda: box_from_shares(0.5, 0, 0.5, 1), "no area: x1 0.5"),
    (lambda: box_from_shares(0, 0, 0, 0), "no area"),
    (lambda: box_from_shares(0, 1.2, 1, 2), "outside the picture: x1 0, y1 1.2"),
    (lambda: box_from_shares(0, NAN, 1, 1), "y1 = nan"),
    (lambda: box_from_mask(torch.zeros(1, 8, 8)), "mask that gives the box is empty"),
    (lambda: box_from_mask(torch.full((8, 8), NAN)), "NaN"),
    (lambda: box_from_mask(torch.ones(2, 8, 8)), r"one picture .* but it is \[2, 8, 8\]"),
    (lambda: box_from_mask(torch.ones(1, 0, 8)), r"\[1, 0, 8\]"),
    (lambda: box_from_mask(3), "but it is int"),
])  # fmt: skip
def test_boxes_that_cannot_be_used(make, said):
    with pytest.raises(SubjectError, match=said):
        make()


def cells(box, height, width):
    """Rows and columns that a box covers, as text."""
    mask = box_masks(torch.tensor([box]), (height, width))[0].unflatten(-1, (height, width))
    assert torch.equal(mask, mask.any(1, keepdim=True) & mask.any(0, keepdim=True))  # a rectangle
    return ["".join(map(str, side.int().tolist())) for side in (mask.any(1), mask.any(0))]


@pytest.mark.parametrize("box, grid, rows, columns", [
    ((0.25, 0.5, 0.75, 1.0), (4, 8), "0011", "00111100"),
    ((0.0, 0.0, 1.0, 1.0), (3, 5), "111", "11111"),
    ((0.3, 0.4, 0.6, 0.6), (5, 5), "00100", "01100"),  # rounded outwards
    ((0.0, 0.0, 0.55, 0.35), (20, 20), "1" * 7 + "0" * 13, "1" * 11 + "0" * 9),  # edges that lie on lines
    ((0.35, 0.55, 1.0, 1.0), (20, 20), "0" * 11 + "1" * 9, "0" * 7 + "1" * 13),
    ((0.5, 0.5, 0.50001, 0.50001), (4, 4), "0010", "0010"),  # never too small for a cell
    ((0.9999, 0.0, 1.0, 1.0), (2, 2), "11", "01"),
    ((0.0, 0.0, 0.0, 0.0), (2, 3), "00", "000"),  # a box that stands for none
    ((1.0, 1.0, 1.0, 1.0), (2, 3), "00", "000"),
    ((0.2, 0.3, 0.2, 0.9), (4, 4), "0000", "0000"),
])  # fmt: skip
def test_cells_of_a_layer(box, grid, rows, columns):
    assert cells(box, *grid) == [rows, columns]


@pytest.mark.parametrize("grid", [(64, 64), (32, 32), (48, 80), (61, 39), (13, 7)])
def test_boxes_of_two_decimals_cover_what_exact_arithmetic_says(grid):
    """Exact, with whole hundredths: from the cell of the first edge to the cell before the next line after the last."""
    for first, last in ((0, 100), (0, 35), (25, 75), (35, 65), (60, 100), (29, 58), (1, 2), (57, 99)):
        box = (first / 100, 0, last / 100, 1)
        expected = [first * grid[1] // 100 <= c < -(-last * grid[1] // 100) for c in range(grid[1])]
        assert cells(box, *grid)[1] == "".join(str(int(each)) for each in expected)


def test_masks_of_batches_and_many_boxes():
    boxes = torch.rand(2, 3, 4).sort(dim=-1).values[..., [0, 1, 2, 3]]
    together = box_masks(boxes, (6, 9))
    assert together.shape == (2, 3, 54) and together.dtype == torch.bool
    assert torch.equal(together[1, 2], box_masks(boxes[1, 2], (6, 9)))


def test_part_of_the_picture():
    """The right half of a latent, its upper quarter."""
    boxes = box_tensor([Box(0, 0, 0.5, 1), Box(0.75, 0.125, 1, 0.5), Box(0.25, 0, 0.75, 0.125), Box(0, 0.5, 1, 1)])
    moved = boxes_in_area(boxes, (64, 96), (16, 48, 0, 48))
    expected = [[0, 0, 0, 0], [0.5, 0.5, 1, 1], [0, 0, 0.5, 0.5], [0, 0, 0, 0]]
    assert torch.allclose(moved, torch.tensor(expected, dtype=torch.float32))
    whole = boxes_in_area(boxes, (64, 96), (64, 96, 0, 0))
    assert torch.allclose(whole, boxes)


def test_a_part_covers_what_the_whole_covers_there():
    boxes = box_tensor([Box(0.1, 0.2, 0.6, 0.7), Box(0.5, 0.5, 0.9, 1)])
    whole = box_masks(boxes, (12, 20)).unflatten(-1, (12, 20))
    part = box_masks(boxes_in_area(boxes, (12, 20), (6, 8, 4, 9)), (6, 8)).unflatten(-1, (6, 8))
    assert torch.equal(part, whole[:, 4:10, 9:17])


def test_boxes_become_a_mask():
    mask = mask_from_boxes([SAME, Box(0, 0, 0.25, 0.25)], CANVAS)
    assert mask.shape == (1, 768, 1280) and mask.dtype == torch.float32
    assert box_from_mask(mask * (torch.arange(1280) >= 320)) == SAME
    assert mask.sum() == 640 * 288 + 320 * 192


def test_a_box_thinner_than_a_pixel_covers_one():
    assert mask_from_boxes([Box(0.999, 0.999, 1, 1)], (8, 4)).nonzero().tolist() == [[0, 3, 7]]
