"""One fine-tuning in the host, from what is connected to the node to what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_management as mm
import torch
from torch import Tensor, nn

from .....blipdiff_impl.blip_diffusion.finetuning.captions import SubjectCaption, plain_caption
from .....blipdiff_impl.blip_diffusion.finetuning.curve import draw_curve
from .....blipdiff_impl.blip_diffusion.finetuning.pictures import (
    TrainingPictures,
    check_resolution,
    prepare,
    square_masks,
    square_opacity,
    squares,
)
from .....blipdiff_impl.blip_diffusion.finetuning.preview import Preview
from .....blipdiff_impl.blip_diffusion.finetuning.settings import FinetuneSettings
from .....blipdiff_impl.blip_diffusion.finetuning.text import FrozenTextEncoder
from .....blipdiff_impl.blip_diffusion.finetuning.tuner import Prior, Tuner
from .....blipdiff_impl.blip_diffusion.subject import Subject
from .....blipdiff_impl.errors import SubjectError
from .....blipdiff_impl.files import as_tensor
from .....blipdiff_impl.pictures.preprocess import Photos
from .....blipdiff_impl.prompts.tokenizers import normalise_category
from .....blipdiff_impl.training.precision import AUTO, choose_precision, forget_activations
from ...notices import tell
from ..marks import PICTURE_SIZE_OF_MODEL
from .checks import require_fitting, require_trainable
from .copies import copy_text_encoder, copy_unet, predict_with
from .memory import Room
from .patches import with_learned
from .progress import Watch

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

_STABLE_DIFFUSION = 512


@dataclass(frozen=True, eq=False, kw_only=True)
class Inputs:
    """What is connected to the node."""

    model: ModelPatcher
    clip: CLIP
    vae: VAE
    subject: Subject
    images: Photos
    masks: Photos | None = None
    class_images: Photos | None = None


@dataclass(frozen=True, kw_only=True)
class HostOptions:
    """What the host's node offers beside the settings of the method.

    Attributes:
        resolution: side of the training pictures; 0 is what the MODEL was trained on.
        precision: "auto", "fp32" or "bf16".
        preview_every: steps between previews; 0 is none.
        preview_prompt: what the preview shows the subject doing.
        keep_on_cancel: give out what was learned when the artist cancels, instead of ending the prompt.
        node: id of the node that runs.
    """

    resolution: int = 0
    precision: str = AUTO
    preview_every: int = 20
    preview_prompt: str = ""
    keep_on_cancel: bool = True
    node: str | None = None


@dataclass(frozen=True, eq=False)
class Finetuned:
    """What comes out of the node.

    Attributes:
        model, subject: know the photos.
        curve: the loss, an IMAGE.
        shown: what the node shows, an IMAGE: the curve, beside the subject as it is drawn now where there are previews.
    """

    model: ModelPatcher
    subject: Subject
    curve: Tensor
    shown: Tensor


def finetune(inputs: Inputs, settings: FinetuneSettings, options: HostOptions) -> Finetuned:
    """Learn the photos.

    Raises:
        SubjectError: something that cannot be used or does not fit, or too little memory; says what would.
    """
    model, subject = inputs.model, inputs.subject
    require_trainable(model)
    require_fitting(model, inputs.clip, subject)
    resolution = options.resolution or getattr(model.model, PICTURE_SIZE_OF_MODEL, _STABLE_DIFFUSION)
    check_resolution(resolution)
    pictures = _encode(inputs, inputs.images, inputs.masks, settings, resolution)
    others = None
    if inputs.class_images is not None:
        others = _encode(inputs, inputs.class_images, None, settings, resolution)
    precision, reason = choose_precision(options.precision, mm.get_torch_device())
    room = Room(model, settings, resolution, precision)
    # The host runs nodes in inference mode, whose tensors can never be trained.
    with torch.inference_mode(False), room.explained():
        tuner, encoder = _prepare(inputs, pictures, others, settings, precision, room.make(reason))
        picture = _preview(inputs, tuner, encoder, tuple(pictures.latents.shape[1:]), options, precision)
        keeps = options.keep_on_cancel
        watch = Watch(settings.steps, options.node, picture, options.preview_every, keeps)
        _run(tuner, watch, keeps)
        learned = tuner.learned()
        source = f"{subject.source}, {learned.steps} steps of {settings.method}"
        tuned = Subject(learned.vectors, subject.category, subject.encoder_fingerprint, source)
        curve, summary = draw_curve(tuner.losses, tuner.stopped), watch.summary(tuner.losses, tuner.stopped)
        shown = curve if summary is None else as_tensor(summary)[None]
        return Finetuned(with_learned(model, learned, settings), tuned, curve, shown)


def _encode(
    inputs: Inputs, images: Photos, masks: Photos | None, settings: FinetuneSettings, resolution: int
) -> TrainingPictures:
    """Latents that autograd accepts."""
    targets = squares(images, resolution)
    cut = None if masks is None else square_masks(masks, images, resolution)
    opaque = square_opacity(images, resolution)

    def encode(pixels: Tensor) -> Tensor:
        return inputs.model.model.process_latent_in(inputs.vae.encode(pixels))

    pictures = prepare(targets, encode, cut, settings.background_weight, settings.flip, opaque)
    if not torch.isfinite(pictures.latents).all():
        raise SubjectError("The VAE makes NaN of these photos. Start ComfyUI with --fp32-vae, or use another VAE.")
    with torch.inference_mode(False):
        mirrored, weights = (None if part is None else part.clone() for part in (pictures.mirrored, pictures.weights))
        return TrainingPictures(pictures.latents.clone(), mirrored, weights)


def _prepare(
    inputs: Inputs,
    pictures: TrainingPictures,
    others: TrainingPictures | None,
    settings: FinetuneSettings,
    precision: torch.dtype,
    checkpointing: bool,
) -> tuple[Tuner, FrozenTextEncoder]:
    """Copies of UNet and text encoder, and the tuner around them."""
    device, subject = mm.get_torch_device(), inputs.subject
    encoder = copy_text_encoder(inputs.clip, device)
    words = _words(inputs.clip, f"a {normalise_category(subject.category)}")
    caption = SubjectCaption(encoder, words, subject.num_tokens)
    prior = None if others is None else Prior(others.to(device), plain_caption(encoder, words))
    unet = copy_unet(inputs.model, device)
    if checkpointing:
        forget_activations(_blocks(unet))
    predict, table = predict_with(unet), alphas_bar(inputs.model)
    return Tuner(unet, predict, caption, subject.embeddings, pictures, settings, table, precision, prior), encoder


def _run(tuner: Tuner, watch: Watch, keep_on_cancel: bool) -> None:
    try:
        tuner.run(watch)
    except mm.InterruptProcessingException:
        if not keep_on_cancel or not tuner.losses:
            raise
        tuner.stopped = f"Cancelled after step {len(tuner.losses)} of {tuner.settings.steps}; what it learned is kept."
    if tuner.stopped:
        tell(tuner.stopped)


def _preview(
    inputs: Inputs,
    tuner: Tuner,
    encoder: FrozenTextEncoder,
    latent_shape: tuple[int, ...],
    options: HostOptions,
    precision: torch.dtype,
) -> Callable[[], Tensor]:
    """A function that draws the subject as it looks by now, `[1, H, W, 3]`."""
    subject = inputs.subject
    latent_format: BaseModel = inputs.model.model
    prompt = f"a {normalise_category(subject.category)} {options.preview_prompt}".strip()
    context_of = SubjectCaption(encoder, _words(inputs.clip, prompt), subject.num_tokens, padded=True)
    empty = plain_caption(encoder, [], padded=True)
    preview = Preview(context_of, empty, latent_shape, alphas_bar(inputs.model), tuner.settings.seed)

    def picture() -> Tensor:
        latents = preview.latents(tuner.predict, tuner.vectors, precision)
        with torch.inference_mode():
            return inputs.vae.decode(latent_format.process_latent_out(latents).to(mm.intermediate_device()))

    return picture


def alphas_bar(model: ModelPatcher) -> Tensor:
    """From the MODEL's own table of noise levels: alpha_bar = 1 / (1 + sigma^2), `[1000]`."""
    sigmas = model.get_model_object("model_sampling").sigmas
    assert isinstance(sigmas, Tensor)  # `require_trainable` refuses a MODEL without them
    return 1 / (1 + sigmas.detach().float().clone() ** 2)


def _words(clip: CLIP, text: str) -> list[int]:
    """Token ids of a text, without start, end and padding; the host numbers those 0 and words from 1."""
    rows = clip.tokenize(text, return_word_ids=True)["l"]
    ids = [item for row in rows for item, _, word in row if word != 0]
    if not all(isinstance(item, int) for item in ids):
        raise SubjectError(f"'{text}' holds an embedding. Name the category and the preview in plain words.")
    return ids


def _blocks(unet: nn.Module) -> list[nn.Module]:
    """What forgets its activations: the residual blocks and transformers, which make up nearly all of the UNet."""
    return [module for module in unet.modules() if type(module).__name__ in ("ResBlock", "SpatialTransformer")]
