"""Cutting out a batch of photos in the host: the segmenter as a guest of the host, and a bar."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ...blipdiff_impl.pictures.matting.matte import GROUNDS, WORKING_SIDE, matte, on_ground
from ...blipdiff_impl.pictures.matting.trimap import (
    BACKGROUND_THRESHOLD,
    EDGE,
    FOREGROUND_THRESHOLD,
    trimap_from_confidence,
    trimap_from_mask,
)
from ...blipdiff_impl.pictures.preprocess import MAX_PHOTOS, Photos, each_photo, numbered, pair_masks
from ...blipdiff_impl.prompts.tokenizers import normalise_category
from .folders import segmenter_names, segmenter_path
from .lent_module import LentModule
from .refusals import first_refusal, typed
from .session import Progress

__all__ = [
    "BACKGROUND_THRESHOLD", "EDGE", "FOREGROUND_THRESHOLD", "GROUNDS", "WORKING_SIDE", "cut_out", "one_by_one",
    "segmenter_names", "segmenter_refusal", "trimaps_from_category", "trimaps_from_masks",
]  # fmt: skip

# Working memory of one photo in the segmenter, generously: 485 rows x 768 x 12 blocks in float32.
_BYTES_PER_PHOTO = 256 * 2**20


def segmenter_refusal(category, segmenter) -> bool | str:
    """What can be said of a segmenter before anything runs; of both inputs what came in."""
    word, name = typed(category), typed(segmenter)
    return first_refusal(
        ("segmenter", lambda: name is None or segmenter_path(name)),
        ("category", lambda: word is None or normalise_category(word)),
    )


def trimaps_from_masks(images: Photos, masks: Photos, edge: float) -> list[Tensor]:
    """A trimap `[H, W]` for each photo, from rough masks `[B or 1, H, W]`.

    Raises:
        SubjectError: photos or masks that cannot be used, with the number of the one.
    """
    photos = _photos(images)
    trimaps = []
    for index, mask in enumerate(pair_masks(masks, photos)):
        with numbered("Photo", index, len(photos)):
            trimaps.append(trimap_from_mask(mask[0].detach().float().cpu(), edge))
    return trimaps


def trimaps_from_category(
    images: Photos, category: str, segmenter: str, foreground: float, background: float
) -> list[Tensor]:
    """A trimap `[H, W]` for each photo, from where CLIPSeg sees the category.

    Raises:
        SubjectError: no segmenter, photos that cannot be used, or nothing of the category in one of them.
    """
    photos = _photos(images)
    from ...blipdiff_impl.pictures.matting.clipseg import category_ids, confidence, load_clipseg

    category_ids(category)  # before anything is read
    network = LentModule(load_clipseg(segmenter_path(segmenter)), _BYTES_PER_PHOTO).fetch()
    progress = Progress(len(photos))
    trimaps = []
    for index, photo in enumerate(photos):
        with numbered("Photo", index, len(photos)):
            found = confidence(network, _rgb(photo), category)
            trimaps.append(trimap_from_confidence(found, foreground, background))
        progress.report(index + 1, len(photos))
    return trimaps


def cut_out(images: Photos, trimaps: list[Tensor], ground: str, working_side: int) -> tuple[Photos, Photos, Photos]:
    """IMAGE `[B, H, W, 3]` on the chosen background, MASK `[B, H, W]` of alpha, MASK of the trimaps; lists for a
    list.

    Raises:
        SubjectError: a trimap without subject or background, with the photo's number, or no PyMatting.
    """
    photos = _photos(images)
    progress = Progress(len(photos))
    cuts, alphas = [], []
    for index, (photo, trimap) in enumerate(zip(photos, trimaps, strict=True)):
        with numbered("Photo", index, len(photos)):
            matted = matte(_rgb(photo), trimap, working_side)
            cuts.append(on_ground(matted, ground))
        alphas.append(matted.alpha)
        progress.report(index + 1, len(photos))
    return _batched_like(images, cuts), _batched_like(images, alphas), _batched_like(images, trimaps)


def one_by_one(pictures: Photos) -> Any:
    """The pictures `[H, W, C]` of a batch, or of all batches of a list, for the host's preview, which
    is declared for a batch and takes one after the other."""
    batches = [pictures] if isinstance(pictures, Tensor) else pictures
    return [picture for batch in batches for picture in batch]


def _batched_like(images: Photos, flat: list[Tensor]) -> Photos:
    if isinstance(images, Tensor):
        return torch.stack(flat)
    left = iter(flat)
    return [torch.stack(list(islice(left, len(batch)))) for batch in images]


def _photos(images: Photos) -> list[Tensor]:
    """Each photo `[1, H, W, C]`, checked one by one, so that the bad one is named."""
    if isinstance(images, Tensor) and images.ndim == 4 and 1 < len(images) <= MAX_PHOTOS:
        return each_photo(list(images.split(1)))
    return each_photo(images)


def _rgb(photo: Tensor) -> Tensor:
    """A photo `[1, H, W, 1 | 3 | 4]` as `[H, W, 3]` float32 on the CPU, 0..1; transparency is not looked at."""
    return photo[0, ..., :3].detach().to("cpu", torch.float32).clamp(0, 1).expand(-1, -1, 3)
