"""Reference pictures: a subject cut out of its photo as the adapter was trained to see it (docs/method.md 13.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.boxes import box_from_mask
from ..errors import SubjectError
from ..pictures.preprocess import check_masks, check_photos


def cut_out(image: Tensor, mask: Tensor | None) -> Tensor:
    """The subject on black, cut to its mask; without a mask the photo as it is.

    The encoder squashes what it gets to a square, so a tight cut keeps most of the subject.

    Args:
        image: one photo `[1, H, W, 1 | 3 | 4]` in 0..1; alpha cuts out too.
        mask: `[1, H, W]` in 0..1, 1 on the subject.

    Returns:
        `[1, h, w, 3]` in 0..1, float32, on the CPU.

    Raises:
        SubjectError: no photo or several, one that cannot be used, or a mask that does not fit or selects nothing.
    """
    check_photos(image)
    if len(image) > 1:
        raise SubjectError(f"A subject has one reference picture, but {len(image)} came in. Choose one of them.")
    image = image.detach().to("cpu", torch.float32).clamp(0, 1)
    alpha = image[..., 3] if image.shape[-1] == 4 else None
    rgb = image[..., :3].expand(-1, -1, -1, 3)
    if mask is not None:
        check_masks(mask, image)
        mask = mask.detach().to("cpu", torch.float32).clamp(0, 1)
    both = alpha if mask is None else mask if alpha is None else mask * alpha
    if both is None:
        return rgb
    box = box_from_mask(both)
    height, width = both.shape[1:]
    rows = slice(round(box.top * height), round(box.bottom * height))
    columns = slice(round(box.left * width), round(box.right * width))
    return (rgb * both[..., None])[:, rows, columns]
