"""Numbers in 0..1 as 8-bit pixels, and back."""

import io

import numpy as np
import torch
from PIL import Image

from blipdiff_impl.files import as_tensor
from blipdiff_impl.pictures.pixels import as_png, to_pillow, to_uint8

ALL = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_every_8_bit_value_comes_back_as_it_was():
    assert (to_uint8(as_tensor(ALL)) == ALL).all()
    assert (to_uint8(as_tensor(Image.fromarray(ALL))) == ALL).all()


def test_the_nearest_value_is_taken():
    below, above = torch.tensor(100.49) / 255, torch.tensor(100.51) / 255
    assert to_uint8(torch.stack([below, above])).tolist() == [100, 101]


def test_what_lies_outside_becomes_black_or_white():
    assert to_uint8(torch.tensor([-3.0, -0.001, 1.001, 2.0])).tolist() == [0, 0, 255, 255]


def test_a_mask_is_a_grey_picture_and_three_channels_are_colours():
    grey, red = torch.full((4, 6), 0.2), torch.tensor([1.0, 0, 0]).expand(4, 6, 3)
    assert (to_pillow(grey).mode, to_pillow(grey).size, to_pillow(grey).getpixel((5, 3))) == ("L", (6, 4), 51)
    assert (to_pillow(red).mode, to_pillow(red).size, to_pillow(red).getpixel((5, 3))) == ("RGB", (6, 4), (255, 0, 0))


def test_a_png_file_holds_the_same_pixels():
    with Image.open(io.BytesIO(as_png(as_tensor(ALL)))) as picture:
        assert picture.format == "PNG" and (np.asarray(picture) == ALL).all()
