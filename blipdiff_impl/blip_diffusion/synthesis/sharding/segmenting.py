"""Where the subject is in a photo: the list's own mask or CLIPSeg's confidence, as a trimap."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import SubjectError
from ..files import as_tensor
from ..matting.clipseg import confidence, load_clipseg
from ..matting.trimap import trimap_from_confidence, trimap_from_mask
from .photo_list import Photo
from .photos import read_mask
from .rejects import NO_SUBJECT, NO_TRIMAP, Rejected
from .settings import SynthesisSettings


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
        values = torch.from_numpy(np.array(mask, dtype=np.float32)) / 255
        inside = values > 0.5
        if not inside.any():
            raise Rejected(NO_SUBJECT, f"No pixel of the mask is above 127, the highest is {int(values.max() * 255)}.")
        if inside.all():
            raise Rejected(NO_TRIMAP, "The mask covers the whole photo.")
        return _near(values, inside, self._settings.edge)

    def _from_network(self, picture: Image.Image, category: str) -> Tensor:
        settings = self._settings
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


def surroundings(selected: Tensor, margin: int) -> tuple[slice, slice]:
    """The rectangle around all that is selected, wider by `margin` on each side where the picture goes on.

    Args:
        selected: bool `[H, W]`, true somewhere.
    """
    slices = []
    for axis in (1, 0):
        places = np.flatnonzero(selected.numpy().any(axis))
        slices.append(slice(max(0, int(places[0]) - margin), int(places[-1]) + margin + 1))
    return tuple(slices)
