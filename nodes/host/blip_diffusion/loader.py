"""A checkpoint to all that an artist connects: MODEL, CLIP, VAE, SUBJECT_ENCODER and, where there is one, a SUBJECT."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....blipdiff_impl.blip_diffusion.checkpoints import PARTS
from ....blipdiff_impl.blip_diffusion.config_checks import require_one_width
from ....blipdiff_impl.blip_diffusion.encoder import SubjectEncoder
from ....blipdiff_impl.blip_diffusion.subject import Subject
from ....blipdiff_impl.errors import SubjectError
from ....blipdiff_impl.toy_world.limits import of_toy_world
from ..clip import load_clip
from ..notices import tell
from ..session import Progress
from ..toy_world import watch_sizes
from ..unet import load_unet
from ..vae import load_vae
from ..weights import WEIGHT_DTYPES
from .encode import HostSubjectEncoder
from .marks import ENCODER_OF_CLIP, PICTURE_SIZE_OF_MODEL
from .sources import OpenedSource, Source

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """What the loader node gives out; `subject` is None where the checkpoint was not fine-tuned on one."""

    model: ModelPatcher
    clip: CLIP
    vae: VAE
    encoder: HostSubjectEncoder
    subject: Subject | None


def load_model(source: Source, weight_dtype: str = "default") -> LoadedModel:
    """Load all parts; the bar on the node advances part by part.

    Args:
        weight_dtype: one of WEIGHT_DTYPES, for UNet and text encoder. The VAE is left to the host: 16 bit can turn
            its pictures black.

    Raises:
        CheckpointError: something is missing, damaged or does not fit.
        SubjectError: an unknown weight_dtype.
    """
    if weight_dtype not in WEIGHT_DTYPES:
        raise SubjectError(f"There is no weight_dtype {weight_dtype!r}; choose one of {', '.join(WEIGHT_DTYPES)}.")
    opened = source.open()
    for part in PARTS:  # what is missing is told before anything large is read
        holder = opened.holder(part)
        holder.check(part)
        for note in holder.notes:
            log.info("%s", note)
    require_one_width(opened.checkpoint.config)
    for sentence in opened.warnings():
        tell(f"{Path(source.path).name}: {sentence}")
    progress = Progress(len(PARTS))
    loaded: list[Any] = []
    for load in (_unet, _clip, _vae, _encoder):
        progress.report(len(loaded), len(PARTS))
        loaded.append(load(opened, weight_dtype))
    progress.report(len(PARTS), len(PARTS))
    model, clip, vae, encoder = loaded
    setattr(clip.cond_stage_model, ENCODER_OF_CLIP, encoder.encoder.fingerprint)
    return LoadedModel(model, clip, vae, encoder, opened.subject(encoder.encoder.fingerprint))


def _unet(opened: OpenedSource, weight_dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    holder = opened.holder("unet")
    patcher = load_unet(holder.part("unet"), holder.config.unet, WEIGHT_DTYPES[weight_dtype], disable_dynamic)
    setattr(patcher.model, PICTURE_SIZE_OF_MODEL, holder.config.picture_size)
    if of_toy_world(holder.word_pieces or ()):
        watch_sizes(patcher)
    _remember(patcher, reload_unet, opened.source, weight_dtype)
    return patcher


def _clip(opened: OpenedSource, weight_dtype: str, disable_dynamic: bool = False) -> CLIP:
    holder, precision = opened.holder("text_encoder"), WEIGHT_DTYPES[weight_dtype]
    clip = load_clip(holder.part("text_encoder"), holder.config.text_encoder, precision, disable_dynamic)
    _remember(clip.patcher, reload_clip, opened.source, weight_dtype)
    return clip


def _vae(opened: OpenedSource, weight_dtype: str) -> VAE:
    holder = opened.holder("vae")
    vae = load_vae(holder.part("vae"), holder.config.vae)
    _remember(vae.patcher, reload_vae, opened.source, weight_dtype)
    return vae


def _encoder(opened: OpenedSource, weight_dtype: str) -> HostSubjectEncoder:
    return HostSubjectEncoder(SubjectEncoder.from_checkpoint(opened.holder("subject_encoder")))


def reload_unet(source: Source, weight_dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    """A new ModelPatcher of the same UNet; the host calls this for training, hooks and several GPUs."""
    return _unet(source.open(), weight_dtype, disable_dynamic)


def reload_clip(source: Source, weight_dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    """A new ModelPatcher of the same text encoder."""
    return _clip(source.open(), weight_dtype, disable_dynamic).patcher


def reload_vae(source: Source, weight_dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    """A new ModelPatcher of the same VAE; like the host's own, of the default kind whatever `disable_dynamic` says."""
    return _vae(source.open(), weight_dtype).patcher


def _remember(
    patcher: ModelPatcher, load_again: Callable[..., ModelPatcher], source: Source, weight_dtype: str
) -> None:
    if hasattr(patcher, "cached_patcher_init"):  # absent from older hosts
        patcher.cached_patcher_init = (load_again, (source, weight_dtype))
