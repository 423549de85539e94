"""Cutting out a batch of photos in the host: the segmenter as a guest of the host, and a bar."""

from __future__ import annotations

import comfy.model_management as mm
import torch
from torch import Tensor

from ...blipdiff_impl.errors import SubjectError
from ...blipdiff_impl.matting.clipseg import category_ids, confidence, load_clipseg
from ...blipdiff_impl.matting.matte import GROUNDS, WORKING_SIDE, Matte, matte, on_ground
from ...blipdiff_impl.matting.trimap import (
    BACKGROUND_THRESHOLD,
    EDGE,
    FOREGROUND_THRESHOLD,
    trimap_from_confidence,
    trimap_from_mask,
)
from ...blipdiff_impl.preprocess import MAX_PHOTOS, check_masks, check_photos
from .folders import segmenter_names, segmenter_path
from .session import Progress
from .weights import patcher_class

__all__ = [
    "BACKGROUND_THRESHOLD", "EDGE", "FOREGROUND_THRESHOLD", "GROUNDS", "WORKING_SIDE", "cut_out", "segmenter_names",
    "trimaps_from_category", "trimaps_from_masks",
]  # fmt: skip

# Working memory of one photo in the segmenter, generously: 485 rows x 768 x 12 blocks in float32.
_BYTES_PER_PHOTO = 256 * 2**20


def trimaps_from_masks(images: Tensor, masks: Tensor, edge: float) -> list[Tensor]:
    """A trimap `[H, W]` for each photo, from rough masks `[B or 1, H, W]`.

    Raises:
        SubjectError: photos or masks that cannot be used, with the number of the one.
    """
    _check(images)
    check_masks(masks, images)
    masks = masks.detach().float().cpu()
    return [
        _numbered(lambda mask: trimap_from_mask(mask, edge), index, len(images), masks[index % len(masks)])
        for index in range(len(images))
    ]


def trimaps_from_category(
    images: Tensor, category: str, segmenter: str, foreground: float, background: float
) -> list[Tensor]:
    """A trimap `[H, W]` for each photo, from where CLIPSeg sees the category.

    Raises:
        SubjectError: no segmenter, photos that cannot be used, or nothing of the category in one of them.
    """
    _check(images)
    category_ids(category)  # before anything is read
    network = load_clipseg(segmenter_path(segmenter))
    # In a list, because the host writes `device` on the module, which those of transformers do not allow.
    movable = torch.nn.ModuleList([network])
    patcher = patcher_class()(
        movable, load_device=mm.text_encoder_device(), offload_device=mm.text_encoder_offload_device()
    )
    # The network is made of plain torch layers, which work only where all of them lie on one device.
    mm.load_models_gpu([patcher], memory_required=_BYTES_PER_PHOTO, force_full_load=True)
    progress = Progress(len(images))

    def one(photo: Tensor) -> Tensor:
        return trimap_from_confidence(confidence(network, photo, category), foreground, background)

    trimaps = []
    for index, photo in enumerate(_rgb(images)):
        trimaps.append(_numbered(one, index, len(images), photo))
        progress.report(index + 1, len(images))
    return trimaps


def cut_out(images: Tensor, trimaps: list[Tensor], ground: str, working_side: int) -> tuple[Tensor, Tensor, Tensor]:
    """IMAGE `[B, H, W, 3]` on the ground, MASK `[B, H, W]` of alpha, MASK of the trimaps.

    Raises:
        SubjectError: a trimap without subject or background, with the photo's number, or no PyMatting.
    """
    progress = Progress(len(images))
    cuts, alphas = [], []
    for index, (photo, trimap) in enumerate(zip(_rgb(images), trimaps, strict=True)):
        matted: Matte = _numbered(lambda pair: matte(*pair, working_side), index, len(images), (photo, trimap))
        cuts.append(on_ground(matted, ground))
        alphas.append(matted.alpha)
        progress.report(index + 1, len(images))
    return torch.stack(cuts), torch.stack(alphas), torch.stack(trimaps)


def _check(images: Tensor) -> None:
    """`check_photos`, one by one where there are several, so that the bad one is named."""
    if isinstance(images, Tensor) and images.ndim == 4 and 1 < len(images) <= MAX_PHOTOS:
        for index, photo in enumerate(images):
            _numbered(check_photos, index, len(images), photo[None])
    else:
        check_photos(images)


def _numbered(function, index: int, count: int, argument):
    """The function's result; its complaint gets the number of the photo, if there are several."""
    try:
        return function(argument)
    except SubjectError as error:
        if count == 1:
            raise
        raise type(error)(f"Photo {index + 1} of {count}: {error}") from error


def _rgb(images: Tensor) -> Tensor:
    """Photos of 1, 3 or 4 channels as `[B, H, W, 3]` float32 on the CPU, 0..1; transparency is not looked at."""
    return images[..., :3].detach().to("cpu", torch.float32).clamp(0, 1).expand(-1, -1, -1, 3)
