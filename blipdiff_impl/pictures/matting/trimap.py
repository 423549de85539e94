"""Trimaps: which pixels are surely subject (1), surely background (0), and which matting has to decide (0.5)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...errors import SubjectError

UNKNOWN = 0.5

# Grey levels of the author's preparation code, 120 and 60 of a viridis picture, as values of the map itself.
FOREGROUND_THRESHOLD, BACKGROUND_THRESHOLD = 0.576, 0.118

# Half the width of the unknown band around a rough mask, as a part of the picture's size.
EDGE = 0.03

_SPECK = 0.25  # pieces that reach no deeper than this part of the band's half width are taken for mistakes


def trimap_from_confidence(
    confidence: Tensor, foreground: float = FOREGROUND_THRESHOLD, background: float = BACKGROUND_THRESHOLD
) -> Tensor:
    """Trimap `[H, W]` of a segmenter's confidence, which is stretched to 0..1 first (docs/method.md 9.2).

    Args:
        confidence: `[H, W]`, any range.
        foreground, background: above the one is subject, up to the other background, between them unknown.

    Raises:
        SubjectError: thresholds in the wrong order, or a confidence that is the same everywhere or not finite.
    """
    if not 0 <= background < foreground < 1:
        raise SubjectError(
            f"foreground_threshold is {foreground:g} and background_threshold {background:g}; the first must be the "
            "larger one and both lie in 0..1. Between them lies what matting decides."
        )
    low, high = confidence.aminmax()
    if not torch.isfinite(confidence).all() or high <= low:
        raise SubjectError(
            f"No foreground was found: the confidence is {float(low):.3g} everywhere. Try another category, or connect "
            "a rough mask."
        )
    stretched = (confidence.float() - low) / (high - low)
    return _trimap(stretched > foreground, stretched <= background)


def trimap_from_mask(mask: Tensor, edge: float = EDGE) -> Tensor:
    """Trimap `[H, W]` of a rough mask: its border, made `edge` wide to both sides, is unknown.

    A piece of subject or background thinner than that (a far-off ball, the hole in a handle) keeps a core.

    Args:
        mask: `[H, W]` in 0..1, above 0.5 on the subject.
        edge: part of the picture's size (the root of its area).

    Raises:
        SubjectError: the mask selects nothing or everything.
    """
    inside = mask > 0.5
    if not inside.any():
        raise SubjectError(
            "No foreground was found: no pixel of the rough mask is above 0.5 (the highest is "
            f"{float(mask.max()):.3g}). White should mark the subject."
        )
    if inside.all():
        raise SubjectError(
            "The rough mask covers the whole picture, so nothing is surely background. White should mark the subject "
            "only."
        )
    reach = max(1.0, edge * mask.numel() ** 0.5)
    return _trimap(_core(inside, reach), _core(~inside, reach))


def check_trimap(trimap: Tensor) -> None:
    """Refuse a trimap that leaves nothing to hold on to.

    Raises:
        SubjectError: another shape, NaN, or no pixel of subject or of background.
    """
    if trimap.ndim != 2 or not trimap.is_floating_point() or not torch.isfinite(trimap).all():
        raise SubjectError(
            f"The trimap should be finite floats [height, width], but it is {trimap.dtype} {list(trimap.shape)}."
        )
    if not (trimap >= 1).any():
        raise SubjectError(
            "The trimap has no sure foreground (no pixel is 1), so there is no subject to start from. Lower "
            "foreground_threshold or edge_width."
        )
    if not (trimap <= 0).any():
        raise SubjectError(
            "The trimap has no sure background (no pixel is 0), so everything would be subject. Raise "
            "background_threshold, lower edge_width, or leave some room around the subject."
        )


def _trimap(foreground: Tensor, background: Tensor) -> Tensor:
    trimap = torch.full(foreground.shape, UNKNOWN)
    trimap[background] = 0.0
    trimap[foreground] = 1.0
    return trimap


def _core(region: Tensor, reach: float) -> Tensor:
    """Pixels of a region that lie more than `reach` from its border; the picture's own border is none.

    A piece that is thinner keeps a core of half its depth, and specks, which a rough mask has by mistake, keep none.
    """
    from scipy import ndimage

    region = region.cpu().numpy()
    depth = ndimage.distance_transform_edt(region)
    pieces, count = ndimage.label(region)
    deepest = ndimage.maximum(depth, pieces, np.arange(count + 1))
    specks = deepest < min(_SPECK * reach, deepest.max())
    needed = np.where(specks, np.inf, np.minimum(reach, deepest / 2))
    return torch.from_numpy(depth > needed[pieces])


def surroundings(selected: Tensor | np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the rectangle around all that is selected, wider by `margin` on each side where the picture
    goes on.

    Args:
        selected: bool `[H, W]`, true somewhere.
    """
    rows, columns = (np.flatnonzero(np.asarray(selected).any(other_axis)) for other_axis in (1, 0))
    top, left = (max(0, int(places[0]) - margin) for places in (rows, columns))
    return slice(top, int(rows[-1]) + margin + 1), slice(left, int(columns[-1]) + margin + 1)
