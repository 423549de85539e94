"""BLIP-Diffusion subjects in plain PyTorch: encode a subject, splice it into a prompt, generate, without ComfyUI.

The names below are the public ones; each is imported when it is first used, so importing the package costs nothing.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "Checkpoint": "checkpoints",
    "CheckpointError": "errors",
    "ModelConfig": "config",
    "Subject": "subject",
    "SubjectEncoder": "encoder",
    "SubjectError": "errors",
    "SubjectPipeline": "pipeline",
    "convert": "checkpoints",
    "interpolate": "interpolation",
    "interpolate_grid": "interpolation",
    "interpolate_strip": "interpolation",
    "open_checkpoint": "checkpoints",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
