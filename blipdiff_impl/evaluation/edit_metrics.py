"""How well an edit leaves alone what it should: PSNR and SSIM outside the edited region.

PSNR is taken over the pixels outside the mask. SSIM (Wang et al. 2004, equation 13: Gaussian window of 11 pixels,
sigma 1.5, K1 0.01, K2 0.03) is the mean of the map over places whose whole window lies inside the picture and outside
the mask, so that nothing of the edit enters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SubjectError

WINDOW, SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


def psnr_outside(before: Tensor, after: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal to noise ratio in dB; infinite where nothing differs.

    Args:
        before, after: `[H, W, C]` in 0..1.
        mask: `[H, W]`; places above 0 are the edit and do not count. None counts the whole picture.

    Raises:
        SubjectError: shapes that do not fit, values outside 0..1 or NaN, or a mask that leaves nothing.
    """
    keep = _checked(before, after, mask)
    error = (before.double() - after.double())[keep].square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim_outside(before: Tensor, after: Tensor, mask: Tensor | None = None) -> float:
    """Structural similarity, mean over channels and places; 1 where nothing differs.

    Args:
        before, after: `[H, W, C]` in 0..1, at least 11 pixels each way.
        mask: `[H, W]`; places above 0 are the edit. None counts the whole picture.

    Raises:
        SubjectError: as `psnr_outside`; also where no window fits beside the mask.
    """
    keep = _checked(before, after, mask)
    if min(keep.shape) < WINDOW:
        raise SubjectError(f"SSIM needs at least {WINDOW} pixels each way, but the picture is {_size(before)}.")
    whole = 1 - F.max_pool2d((~keep).double()[None, None], WINDOW, stride=1)[0, 0]
    if not whole.any():
        raise SubjectError(f"The mask leaves no square of {WINDOW} pixels to compare; use a smaller mask.")
    return _ssim_map(before, after)[:, whole > 0].mean().item()


def _ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """`[C, H - 10, W - 10]` of two pictures `[H, W, C]`."""
    x, y = (picture.double().permute(2, 0, 1)[:, None] for picture in (x, y))
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure)[:, 0]


def _blur(planes: Tensor) -> Tensor:
    """Gaussian mean of planes `[C, 1, H, W]` where the window fits."""
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=planes.device) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(planes, weights[None, None, None]), weights[None, None, :, None])


def _checked(before: Tensor, after: Tensor, mask: Tensor | None) -> Tensor:
    """Where pictures are compared, bool `[H, W]`."""
    if before.ndim != 3 or before.shape != after.shape or 0 in before.shape:
        raise SubjectError(
            f"The pictures should both be [height, width, channels] of one size, but they are {list(before.shape)} "
            f"and {list(after.shape)}."
        )
    for picture, name in ((before, "before"), (after, "after")):
        if not picture.is_floating_point() or not ((picture >= 0) & (picture <= 1)).all():
            raise SubjectError(f"The picture {name} the edit should hold numbers in 0..1, without NaN.")
    if mask is None:
        return torch.ones(before.shape[:2], dtype=torch.bool, device=before.device)
    if mask.shape != before.shape[:2] or (mask.is_floating_point() and mask.isnan().any()):
        raise SubjectError(f"The mask should be {_size(before)} without NaN, but it is {list(mask.shape)}.")
    keep = (mask <= 0).to(before.device)
    if not keep.any():
        raise SubjectError("The mask covers the whole picture, so there is nothing outside it to compare.")
    return keep


def _size(picture: Tensor) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]} pixels"
