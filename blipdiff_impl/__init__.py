"""BLIP-Diffusion subjects in plain PyTorch: encode a subject, splice it into a prompt, generate, without ComfyUI.

The names below are the public ones; each is imported when it is first used, so importing the package costs nothing.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "Checkpoint": "blip_diffusion.checkpoints",
    "CheckpointError": "errors",
    "ModelConfig": "blip_diffusion.config",
    "Subject": "blip_diffusion.subject",
    "SubjectEncoder": "blip_diffusion.encoder",
    "SubjectError": "errors",
    "SubjectPipeline": "blip_diffusion.pipeline",
    "convert": "blip_diffusion.checkpoints",
    "interpolate": "blip_diffusion.interpolation",
    "interpolate_grid": "blip_diffusion.interpolation",
    "interpolate_strip": "blip_diffusion.interpolation",
    "open_checkpoint": "blip_diffusion.checkpoints",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
