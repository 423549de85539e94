"""What the node's form offers, and what it chooses by itself on this machine."""

from __future__ import annotations

import comfy.model_management as mm

from .....blipdiff_impl.blip_diffusion.finetuning.settings import METHODS, FinetuneSettings
from .....blipdiff_impl.training.precision import AUTO, PRECISIONS

__all__ = ["METHODS", "PRECISION_NAMES", "FinetuneSettings", "default_method"]

PRECISION_NAMES = (AUTO, *PRECISIONS)
_FOR_FULL = 24 * 2**30  # a full tune of the released size takes 18 to 20 GiB


def default_method() -> str:
    """ "full" as in the paper, "lora" on GPUs that are too small for it."""
    device = mm.get_torch_device()
    small = device.type != "cpu" and mm.get_total_memory(device) < 0.95 * _FOR_FULL
    return "lora" if small else "full"
