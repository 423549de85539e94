"""Held-out subjects to look at: each reference, and beside it what the model draws of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..blip_diffusion.pipeline import SubjectPipeline
from ..files import as_tensor
from ..pictures.contact_sheet import contact_sheet
from ..pictures.pixels import to_pillow
from ..toy_world.render import LARGE_SIZE
from .evaluate import STEPS, generate, make_trials

_PAIRS = 8  # in a row


def write_sheet(count: int, out: Path, model: str = "toybox", size: int = LARGE_SIZE, steps: int = STEPS) -> None:
    """Draw the first `count` held-out subjects with `size` pixels, as `numbers` does, and write the sheet as a PNG."""
    trials = make_trials(count, size)
    drawn = generate(SubjectPipeline.from_checkpoint(model), trials, steps=steps)
    pictures, labels = [], []
    for trial, picture in zip(trials, drawn, strict=True):
        reference = Image.fromarray(trial.reference).resize((size, size), Image.Resampling.NEAREST)
        pictures += [as_tensor(reference), as_tensor(np.asarray(picture))]
        labels += [trial.subject.category, trial.phrase]
    sheet = contact_sheet(torch.stack(pictures), 2 * min(count, _PAIRS), labels)
    out.parent.mkdir(parents=True, exist_ok=True)
    to_pillow(sheet[0]).save(out, "PNG")
