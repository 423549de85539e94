"""A photo and a trimap to alpha and foreground colours."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import SubjectError
from ...settings import require_one_of
from ..preprocess import CLIP_MEAN
from .closed_form import solve_alpha
from .library import load_pymatting
from .trimap import UNKNOWN, check_trimap

WORKING_SIDE = 1024

# What the cut-out is put on. "neutral" is zero to the encoder; "none" leaves the foreground colours as estimated.
GROUNDS = {"neutral": CLIP_MEAN, "white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "none": None}


class Matte(NamedTuple):
    """A subject cut out: alpha `[H, W]` and foreground colours `[H, W, 3]`, both float32 in 0..1."""

    alpha: Tensor
    foreground: Tensor


def matte(photo: Tensor, trimap: Tensor, working_side: int = WORKING_SIDE) -> Matte:
    """Closed-form alpha, and the subject's own colours where the background shines through (multi-level estimate).

    Args:
        photo: `[H, W, 3]` in 0..1.
        trimap: `[H, W]`; 1 subject, 0 background, between them unknown. Without unknown pixels it is the alpha.
        working_side: a larger photo is matted at this size and its alpha enlarged, which bounds time and memory
            (up to 1 GB at 1024); pixels that the trimap decides stay exact.

    Raises:
        SubjectError: a trimap without subject or background or of another size, NaN, or no PyMatting.
    """
    if photo.ndim != 3 or photo.shape[-1] != 3 or photo.shape[:2] != trimap.shape:
        raise SubjectError(f"The photo is {list(photo.shape)} and its trimap {list(trimap.shape)}; sizes must agree.")
    if min(trimap.shape) < 3:
        raise SubjectError(f"The photo is {trimap.shape[1]}x{trimap.shape[0]} pixels; matting needs at least 3 a side.")
    if not torch.isfinite(photo).all():
        raise SubjectError("The photo holds NaN or infinite pixels. Check the node that made it.")
    check_trimap(trimap)
    photo = photo.detach().to("cpu", torch.float32).clamp(0, 1)
    trimap = trimap.detach().to("cpu", torch.float32).clamp(0, 1)
    alpha = _alpha(photo, trimap, working_side)
    foreground = load_pymatting().estimate_foreground_ml(photo.numpy(), alpha.numpy())
    return Matte(alpha, torch.from_numpy(foreground).float().clamp(0, 1))


def on_ground(matted: Matte, ground: str) -> Tensor:
    """The cut-out `[H, W, 3]` on one of `GROUNDS`.

    Raises:
        SubjectError: another word for `ground`.
    """
    require_one_of("ground", ground, GROUNDS)
    if GROUNDS[ground] is None:
        return matted.foreground
    alpha = matted.alpha[..., None]
    return alpha * matted.foreground + (1 - alpha) * torch.tensor(GROUNDS[ground])


def _alpha(photo: Tensor, trimap: Tensor, working_side: int) -> Tensor:
    height, width = trimap.shape
    scale = working_side / max(height, width)
    if scale >= 1:
        return torch.from_numpy(solve_alpha(photo.numpy(), trimap.numpy())).float()
    size = max(3, round(height * scale)), max(3, round(width * scale))
    small = _resized(photo.permute(2, 0, 1), size, "area").permute(1, 2, 0)
    solved = torch.from_numpy(solve_alpha(small.numpy(), _shrunk_trimap(trimap, size).numpy())).float()
    enlarged = _resized(solved[None], (height, width), "bicubic")[0].clamp(0, 1)
    return torch.where((trimap > 0) & (trimap < 1), enlarged, trimap)


def _shrunk_trimap(trimap: Tensor, size: tuple[int, int]) -> Tensor:
    """Known only where all pixels beneath agree."""
    mean = _resized(trimap[None], size, "area")[0]
    slack = 1e-4  # of a mean in single precision
    known = (mean < slack) | (mean > 1 - slack)
    return torch.where(known, mean.round(), torch.tensor(UNKNOWN))


def _resized(channels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    return F.interpolate(channels[None], size, mode=mode)[0]
