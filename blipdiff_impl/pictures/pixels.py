"""Pictures as numbers in 0..1 and as bytes: one rounding for all; `files.as_tensor` goes the other way."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_uint8(pictures: Tensor) -> np.ndarray:
    """Numbers in 0..1, of any shape and on any device, to the nearest of 0..255; what lies outside becomes 0 or 255."""
    return (pictures.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()


def to_pillow(picture: Tensor) -> Image.Image:
    """A picture `[H, W, 3]` in 0..1 in RGB, or a mask `[H, W]` in grey."""
    return Image.fromarray(to_uint8(picture))


def as_png(picture: Tensor) -> bytes:
    """A picture `[H, W, 3]` or a mask `[H, W]`, in 0..1, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    to_pillow(picture).save(buffer, "PNG")
    return buffer.getvalue()
