"""One fine-tuning in the host, from what is connected to the node to what comes out of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_management as mm
import torch
from torch import Tensor, nn

from ....blipdiff_impl.errors import SubjectError
from ....blipdiff_impl.finetuning.captions import SubjectCaption, plain_caption
from ....blipdiff_impl.finetuning.checkpointing import forget_activations
from ....blipdiff_impl.finetuning.curve import draw_curve
from ....blipdiff_impl.finetuning.pictures import TrainingPictures, check_resolution, prepare, square_masks, squares
from ....blipdiff_impl.finetuning.precision import AUTO, choose_precision
from ....blipdiff_impl.finetuning.preview import Preview
from ....blipdiff_impl.finetuning.settings import FinetuneSettings
from ....blipdiff_impl.finetuning.text import FrozenTextEncoder
from ....blipdiff_impl.finetuning.tuner import Prior, Tuner
from ....blipdiff_impl.subject import Subject
from ....blipdiff_impl.tokenizers import normalise_category
from ..models import PICTURE_SIZE_OF_MODEL
from .copies import copy_text_encoder, copy_unet, predict_with
from .delivery import with_learned
from .fitness import require_fitting, require_trainable
from .room import Room
from .watching import Watch

_STABLE_DIFFUSION = 512

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is connected to the node."""

    model: object
    clip: object
    vae: object
    subject: Subject
    images: Tensor
    masks: Tensor | None = None
    class_images: Tensor | None = None


@dataclass(frozen=True)
class HostOptions:
    """What the host's node offers beside the settings of the method.

    Attributes:
        resolution: side of the training pictures; 0 is what the MODEL was trained on.
        precision: "auto", "fp32" or "bf16".
        preview_every: steps between previews; 0 is none.
        preview_prompt: what the preview shows the subject doing.
        keep_on_cancel: give out what was learned when the artist cancels, instead of ending the prompt.
        node_id: of the node that runs.
    """

    resolution: int = 0
    precision: str = AUTO
    preview_every: int = 20
    preview_prompt: str = ""
    keep_on_cancel: bool = False
    node_id: str | None = None


def finetune(inputs: Inputs, settings: FinetuneSettings, options: HostOptions) -> tuple[object, Subject, Tensor]:
    """MODEL and SUBJECT that know the photos, and the loss curve as an IMAGE.

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
        _run(tuner, Watch(settings.steps, options.node_id, picture, options.preview_every), options.keep_on_cancel)
        learned = tuner.learned()
        source = f"{subject.source}, {learned.steps} steps of {settings.method}"
        tuned = Subject(learned.vectors, subject.category, subject.encoder_fingerprint, source)
        return with_learned(model, learned, settings), tuned, draw_curve(tuner.losses, tuner.stopped)


def _encode(inputs: Inputs, images: Tensor, masks, settings: FinetuneSettings, resolution: int) -> TrainingPictures:
    """Latents that autograd accepts."""
    targets = squares(images, resolution)
    cut = None if masks is None else square_masks(masks, images, resolution)

    def encode(pixels: Tensor) -> Tensor:
        return inputs.model.model.process_latent_in(inputs.vae.encode(pixels))

    pictures = prepare(targets, encode, cut, settings.background_weight, settings.flip)
    if not torch.isfinite(pictures.latents).all():
        raise SubjectError("The VAE makes NaN of these photos. Start ComfyUI with --fp32-vae, or use another VAE.")
    with torch.inference_mode(False):
        parts = (pictures.latents, pictures.mirrored, pictures.weights)
        return TrainingPictures(*(None if part is None else part.clone() for part in parts))


def _prepare(
    inputs: Inputs, pictures: TrainingPictures, others, settings: FinetuneSettings, precision, checkpointing: bool
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
        log.warning(tuner.stopped)


def _preview(
    inputs: Inputs,
    tuner: Tuner,
    encoder: FrozenTextEncoder,
    latent_shape: tuple[int, ...],
    options: HostOptions,
    precision: torch.dtype,
) -> Callable[[], Tensor]:
    """A function that draws the subject as it looks by now, `[1, H, W, 3]`."""
    subject, latent_format = inputs.subject, inputs.model.model
    prompt = f"a {normalise_category(subject.category)} {options.preview_prompt}".strip()
    context_of = SubjectCaption(encoder, _words(inputs.clip, prompt), subject.num_tokens, padded=True)
    empty = plain_caption(encoder, [], padded=True)
    preview = Preview(context_of, empty, latent_shape, alphas_bar(inputs.model), tuner.settings.seed)

    def picture() -> Tensor:
        latents = preview.latents(tuner.predict, tuner.vectors, precision)
        with torch.inference_mode():
            return inputs.vae.decode(latent_format.process_latent_out(latents).to(mm.intermediate_device()))

    return picture


def alphas_bar(model) -> Tensor:
    """From the MODEL's own table of noise levels: alpha_bar = 1 / (1 + sigma^2), `[1000]`."""
    sigmas = model.get_model_object("model_sampling").sigmas
    return 1 / (1 + sigmas.detach().float().clone() ** 2)


def _words(clip, text: str) -> list[int]:
    """Token ids of a text, without start, end and padding; the host numbers those 0 and words from 1."""
    rows = clip.tokenize(text, return_word_ids=True)["l"]
    ids = [item for row in rows for item, _, word in row if word != 0]
    if not all(isinstance(item, int) for item in ids):
        raise SubjectError(f"'{text}' holds an embedding. Name the category and the preview in plain words.")
    return ids


def _blocks(unet: nn.Module) -> list[nn.Module]:
    """What forgets its activations: the residual blocks and transformers, which make up nearly all of the UNet."""
    return [module for module in unet.modules() if type(module).__name__ in ("ResBlock", "SpatialTransformer")]
