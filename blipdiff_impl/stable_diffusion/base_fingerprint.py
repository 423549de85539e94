"""A name for the UNet that weights were tuned on, the same whatever precision it is loaded in.

Rounding to 16 or 8 bit changes the bytes of a weight but never its sign; another training changes some signs among
tens of thousands. So the signs of a sample are hashed, which takes milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

_SAMPLE = 256  # numbers from the start of each tensor


def base_fingerprint(unet: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, sizes and sampled signs of a UNet given by canonical (diffusers') names."""
    digest = hashlib.sha256()
    for name in sorted(unet):
        tensor = unet[name]
        signs = torch.signbit(tensor.detach().reshape(-1)[:_SAMPLE].float()).cpu()
        digest.update(f"{name} {tensor.numel()} ".encode() + signs.numpy().tobytes())
    return digest.hexdigest()
