"""The built-in MS-Diffusion adapter: the stage `ms-diffusion` of `pretrain`, at the size of the embedded model.

First the resampler imitates what the text encoder makes of subject vectors, then all of the adapter learns to draw.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import SubjectError
from ..files import write_whole
from ..ms_diffusion.file_names import TOYBOX_FILE
from ..ms_diffusion.pretraining.base import Base, XLBase
from ..ms_diffusion.pretraining.command import train
from ..ms_diffusion.pretraining.settings import COLUMNS, TOYBOX, MSSettings
from ..toy_world.bank import CACHE
from ..toy_world.render import LARGE_SIZE
from ..toy_world.scenes import MAX_THINGS
from ..training.optimisers import fast_precision

TOY = "toy"
_SHARED = MSSettings(
    model=TOYBOX, shards=(TOY,), width=128, depth=4, heads=4, head_width=32, size=LARGE_SIZE, subjects=MAX_THINGS,
    optimiser="muon", betas=(0.9, 0.98), weight_decay=0.0, precision=fast_precision(), threads=1, clip=1.0,
    ema_decay=0.995, text_drop=0.1, image_drop=0.0, both_drop=0.0, grounding_drop=0.1, box_jitter=0.02, sample_every=0,
)  # fmt: skip
IMITATION = replace(
    _SHARED, loss=COLUMNS, out=str(CACHE / "ms_adapter" / "imitation"), batch_size=64, steps=300, warm_up=20,
    subjects=1, learning_rate=3e-3, last_rate=6e-5, save_every=200, log_every=25,
)  # fmt: skip
DRAWING = replace(
    _SHARED, adapter=str(CACHE / "ms_adapter" / "imitation" / "ms_adapter.safetensors"),
    out=str(CACHE / "ms_adapter" / "drawing"), batch_size=16, steps=1500, warm_up=50, learning_rate=1.5e-3,
    last_rate=3e-5, min_snr=5.0, mask_weight=2.0, save_every=50, log_every=25,
)  # fmt: skip
FURTHER = replace(
    DRAWING, adapter=str(TOYBOX_FILE), out=str(CACHE / "ms_adapter" / "further"), steps=1200, learning_rate=1e-3,
    last_rate=2e-5, seed=11, mask_weight=3.0, box_jitter=0.0, noisy_share=0.8,
)  # fmt: skip


def train_ms_diffusion(settings: MSSettings) -> Path:
    """The stage for the command `pretrain`, on the embedded model too; returns the adapter's file.

    Raises:
        SubjectError: the toy world's scenes for another model.
    """
    if settings.model != TOYBOX and settings.shards != (TOY,):
        return train(settings)
    if settings.model != TOYBOX:
        raise SubjectError(f"shards: {TOY} goes with model: {TOYBOX}; {settings.model} needs shards of its own.")
    from .adapter_data import ToyScenes

    source = ToyScenes() if settings.shards == (TOY,) else None
    with sdpa_kernel(SDPBackend.MATH):  # its fused backward is the slower one at these sizes
        return train(settings, open_base(TOYBOX), source)


def open_base(model: str, vision: str = "") -> Base:
    """The frozen networks that an adapter draws with: "toybox", or folders of a model and its picture encoder.

    Raises:
        CheckpointError: a part is missing or damaged.
        SubjectError: no picture encoder is named.
    """
    if model == TOYBOX:
        from .adapter_base import ToyBase

        return ToyBase()
    if not vision:
        raise SubjectError(f"Name the picture encoder that belongs to {model}: a folder as transformers reads it.")
    return XLBase(Path(model), Path(vision))


def make_adapter(path: Path = TOYBOX_FILE) -> None:
    """Both runs, resumed where one was interrupted, and the file that comes with the pack."""
    _make(path, IMITATION, DRAWING)


def train_adapter_further(path: Path = TOYBOX_FILE) -> None:
    """Draw on from the adapter that comes with the pack, which may have been trained on an earlier model's UNet."""
    _make(path, FURTHER)


def _make(path: Path, *runs: MSSettings) -> None:
    torch.set_num_threads(1)
    from .adapter_data import make_cut_outs

    make_cut_outs()
    made = [train_ms_diffusion(settings) for settings in runs]
    write_whole(path, made[-1].read_bytes())
