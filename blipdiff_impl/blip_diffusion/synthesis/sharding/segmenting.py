"""Where the subject is in a photo, by the list's own mask or CLIPSeg's confidence, and cutting it out."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ....errors import SubjectError
from ....files import as_tensor
from ....pictures.matting.clipseg import confidence, load_clipseg
from ....pictures.matting.matte import Matte, matte
from ....pictures.matting.trimap import surroundings, trimap_from_confidence, trimap_from_mask
from ..photo_list import Photo
from .photos import read_mask
from .rejects import MATTING, NO_SUBJECT, NO_TRIMAP, Rejected
from .settings import SynthesisSettings

# Background around all that may be subject, as a part of the photo's longer side: the colours beside it tell matting
# what the subject is not, and those farther off do not matter.
_MARGIN = 0.05


class Segmenter:
    """Trimaps of photos.

    Args:
        folder: that the paths of the list are relative to.
        clipseg: folder of CLIPSeg; None when all photos bring masks.

    Raises:
        CheckpointError: no CLIPSeg in its folder.
    """

    def __init__(self, folder: Path, clipseg: Path | None, settings: SynthesisSettings):
        self._folder, self._settings = folder, settings
        self._network = load_clipseg(clipseg) if clipseg else None

    def trimap(self, photo: Photo, picture: Image.Image) -> Tensor:
        """`[H, W]`: 1 subject, 0 background, 0.5 for matting to decide.

        Raises:
            Rejected: an unusable mask, no subject, or nothing that is surely subject or background.
        """
        if photo.mask:
            trimap = self._from_mask(read_mask(self._folder / photo.mask, picture))
        else:
            trimap = self._from_network(picture, photo.category)
        for value, what in ((1, "subject"), (0, "background")):
            if not (trimap == value).any():
                raise Rejected(NO_TRIMAP, f"No pixel is surely {what}.")
        return trimap

    def _from_mask(self, mask: Image.Image) -> Tensor:
        values = as_tensor(mask)
        inside = values > 0.5
        if not inside.any():
            raise Rejected(NO_SUBJECT, f"No pixel of the mask is above 127, the highest is {int(values.max() * 255)}.")
        if inside.all():
            raise Rejected(NO_TRIMAP, "The mask covers the whole photo.")
        return _near(values, inside, self._settings.edge)

    def _from_network(self, picture: Image.Image, category: str) -> Tensor:
        settings = self._settings
        assert self._network is not None  # a list with photos without masks is refused where there is none
        try:
            found = confidence(self._network, as_tensor(picture), category)
            return trimap_from_confidence(found, settings.foreground_threshold, settings.background_threshold)
        except SubjectError as error:
            raise Rejected(NO_SUBJECT, str(error)) from error


def _near(mask: Tensor, inside: Tensor, edge: float) -> Tensor:
    """`trimap_from_mask`, computed only where the mask's border can be felt: twice the band's half width around it."""
    trimap = torch.zeros(mask.shape)
    place = surroundings(inside, ceil(2 * max(1.0, edge * mask.numel() ** 0.5)) + 1)
    part = mask[place]
    trimap[place] = trimap_from_mask(part, edge * (mask.numel() / part.numel()) ** 0.5)
    return trimap


def cut_out(picture: Image.Image, trimap: Tensor, working_side: int) -> Matte:
    """Alpha and the subject's own colours, of the photo's size; colours where alpha is surely 0 are the photo's.

    Only the part in which the subject may be is matted; the rest is background.

    Args:
        trimap: `[H, W]` with some 0 and some 1.
        working_side: longer side that alpha of the part is solved at.

    Raises:
        Rejected: matting failed.
        SubjectError: a trimap of another size.
    """
    photo = as_tensor(picture)
    place = surroundings(trimap > 0, max(4, round(_MARGIN * max(trimap.shape))))
    try:
        part = matte(photo[place], trimap[place], working_side)
    # ValueError: no convergence, or a SubjectError; RuntimeError: a singular factor.
    except (ValueError, RuntimeError) as error:
        raise Rejected(MATTING, str(error)) from error
    alpha, foreground = trimap.clone(), photo
    alpha[place], foreground[place] = part.alpha, part.foreground
    return Matte(alpha, foreground)
