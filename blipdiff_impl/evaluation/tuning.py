"""A pipeline tuned to each subject: done once, kept in a subject file, found again."""

from __future__ import annotations

import contextlib
import copy
import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..blip_diffusion.finetuning.command import tuned_weights
from ..blip_diffusion.finetuning.pictures import squares
from ..blip_diffusion.finetuning.settings import FinetuneSettings
from ..blip_diffusion.pipeline import SubjectPipeline
from ..blip_diffusion.stored_weights import restore_change
from ..blip_diffusion.subject import Subject
from ..blip_diffusion.subject_file import SavedSubject, read_subject, weight_name, write_subject
from ..errors import NameTaken, SubjectError
from .published import SUBJECTS

log = logging.getLogger(__name__)


def steps_for(name: str, steps: int | None) -> int:
    """Steps of fine-tuning: as asked for, else the paper's for this subject (table 4), else 80."""
    if steps is not None:
        return steps
    return SUBJECTS[name].steps if name in SUBJECTS else FinetuneSettings.steps


def tuned_pipeline(
    pipeline: SubjectPipeline, subject: Subject, photos: list[Tensor], file: Path, settings: FinetuneSettings
) -> tuple[SubjectPipeline, Subject]:
    """The pipeline with a tuned UNet, and the subject with tuned vectors.

    The weights are always those read from the file, so that pictures drawn before and after an interruption agree.

    Args:
        photos: each `[1, H, W, 3]` in 0..1.
        file: where the tune is kept; made where it is missing.
    """
    if not file.exists():
        _tune(pipeline, subject, photos, file, settings)
    saved = read_subject(file)
    unet = copy.deepcopy(pipeline.unet)
    _add_changes(unet, saved, file)
    tuned = SubjectPipeline(pipeline.config, pipeline.encoder, pipeline.text_encoder, unet, pipeline.vae)
    return tuned, replace(saved.subject, category=subject.category)


def _tune(
    pipeline: SubjectPipeline, subject: Subject, photos: list[Tensor], file: Path, settings: FinetuneSettings
) -> None:
    from ..blip_diffusion.finetuning.plain import encode_pictures, tune

    before = dict(pipeline.unet.state_dict())
    targets = torch.cat([squares(photo, pipeline.config.picture_size) for photo in photos])
    tuned = tune(pipeline, subject, encode_pictures(pipeline, targets, settings), settings)
    if tuned.learned.steps < settings.steps:
        raise SubjectError(f"Tuning for {file.stem} stopped after {tuned.learned.steps} of {settings.steps} steps.")
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(NameTaken):  # by another evaluation, which tunes alike
        write_subject(file, tuned.subject, tuned_weights(tuned.learned, before, settings.method))
    log.info("%s: %d steps.", file, tuned.learned.steps)


@torch.no_grad()
def _add_changes(unet: torch.nn.Module, saved: SavedSubject, file: Path) -> None:
    """Add the file's changes to the weights they belong to."""
    if saved.tuned is None:
        raise SubjectError(f"{file} holds no tuned weights. Delete it, and it is made again.")
    groups: dict[tuple[str, bool], dict[str, Tensor]] = {}
    for name, tensor in saved.tuned.tensors.items():
        module, _, kind = name.partition(".")
        groups.setdefault((module, kind == "diff_b"), {})[name] = tensor
    for name, weight in unet.named_parameters():
        module, _, kind = name.rpartition(".")
        stored = groups.pop((weight_name(module), kind == "bias"), None)
        if stored:
            weight.add_(restore_change(stored, weight.shape, weight.device).to(weight.dtype))
    if groups:
        raise SubjectError(f"{file} belongs to another model: {next(iter(groups))[0]} is not in this one.")
