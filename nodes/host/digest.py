"""Samples told apart by their content: what a run leaves behind is found again by the samples that it gave."""

from __future__ import annotations

import hashlib

import comfy.model_management as mm
import torch
from torch import Tensor


def samples_digest(samples: Tensor) -> str:
    """SHA-256 of the samples as the host's nodes hand them on."""
    dtype = mm.intermediate_dtype() if hasattr(mm, "intermediate_dtype") else torch.float32
    data = samples.detach().to("cpu", dtype).to(torch.float32).contiguous()
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()
