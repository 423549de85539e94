"""LATENTs that go into an edit."""

from __future__ import annotations

import torch
from torch import Tensor

from .....blipdiff_impl.errors import SubjectError


def require_latent(model, latent: dict) -> Tensor:
    """The samples `[N, C, h, w]`, checked.

    Raises:
        SubjectError: another shape, another number of channels than the MODEL's, or NaN.
    """
    samples = latent["samples"]
    channels = model.model.latent_format.latent_channels
    if samples.ndim != 4 or 0 in samples.shape or samples.shape[1] != channels:
        raise SubjectError(
            f"The latent has the shape {list(samples.shape)}; this MODEL takes pictures [N, {channels}, height / 8, "
            "width / 8]."
        )
    if not torch.isfinite(samples).all():
        raise SubjectError("The latent holds NaN or infinite values; the node that made it is broken.")
    return samples.detach().float().cpu()
