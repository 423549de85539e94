"""Fine-tuning on a `SubjectPipeline`: diffusers' UNet and VAE, no host."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ...prompts.tokenizers import clip_ids, normalise_category
from ...stable_diffusion.noise import alphas_bar
from ...stable_diffusion.text_encoder import TextEncoder
from ...training.precision import AUTO, choose_precision
from ..pipeline import SubjectPipeline
from ..subject import Subject
from .captions import SubjectCaption, plain_caption
from .pictures import TrainingPictures, prepare
from .settings import FinetuneSettings
from .text import FrozenTextEncoder
from .tuner import ContextOf, Learned, Prior, Tuner

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Tuned:
    """A pipeline that draws with the tuned UNet, the subject with its tuned vectors, and what there is to keep."""

    pipeline: SubjectPipeline
    subject: Subject
    learned: Learned
    losses: list[float]


def tune(
    pipeline: SubjectPipeline,
    subject: Subject,
    pictures: TrainingPictures,
    settings: FinetuneSettings,
    prior: TrainingPictures | None = None,
    precision: str = AUTO,
    watch=lambda done, losses: None,
) -> Tuned:
    """Fine-tune a copy of the pipeline's UNet; the pipeline itself is left alone.

    Args:
        subject: one subject with its category.
        pictures: from `encode_pictures`.
        prior: pictures of the class.
        precision: "auto", "fp32" or "bf16".
        watch: see `Tuner.run`.

    Raises:
        SubjectError: settings, subject or pictures that cannot be used.
    """
    tuner = make_tuner(pipeline, subject, pictures, settings, prior, precision)
    tuner.run(watch)
    if tuner.stopped:
        log.warning(tuner.stopped)
    learned = tuner.learned()
    source = f"{subject.source}, {learned.steps} steps of {settings.method}"
    tuned = Subject(learned.vectors, subject.category, subject.encoder_fingerprint, source)
    return Tuned(with_learned(pipeline, learned), tuned, learned, tuner.losses)


def make_tuner(
    pipeline: SubjectPipeline,
    subject: Subject,
    pictures: TrainingPictures,
    settings: FinetuneSettings,
    prior: TrainingPictures | None = None,
    precision: str = AUTO,
    context_of: ContextOf | None = None,
) -> Tuner:
    """The fine-tuning that `tune` runs, before its first step.

    Args:
        context_of: in place of the caption with the subject's vectors; see `Tuner`.

    Raises:
        SubjectError: as `tune`.
    """
    unet = copy.deepcopy(pipeline.unet).float()
    device = unet.conv_in.weight.device
    dtype, reason = choose_precision(precision, device)
    log.info("Fine-tuning in %s.", reason)
    encoder = frozen_text_encoder(pipeline.text_encoder)
    words = clip_ids(f"a {normalise_category(subject.category)}")
    return Tuner(
        unet,
        lambda x, t, context: unet(x, t, context).sample,
        context_of or SubjectCaption(encoder, words, subject.num_tokens),
        subject.embeddings,
        pictures,
        settings,
        alphas_bar(),
        dtype,
        None if prior is None else Prior(prior.to(device), plain_caption(encoder, words)),
    )


@torch.no_grad()
def encode_pictures(
    pipeline: SubjectPipeline,
    targets: Tensor,
    settings: FinetuneSettings,
    masks: Tensor | None = None,
    opaque: Tensor | None = None,
) -> TrainingPictures:
    """Latents of the targets `[N, S, S, 3]` in 0..1 (posterior means), with the weights that masks `[N, S, S]` give.

    Args:
        masks, opaque: see `pictures.prepare`.
    """
    weight = pipeline.vae.encoder.conv_in.weight

    def encode(pixels: Tensor) -> Tensor:
        pixels = (2 * pixels - 1).permute(0, 3, 1, 2).to(weight.device, weight.dtype)
        means = [pipeline.vae.encode(one[None]).latent_dist.mean for one in pixels]
        return torch.cat(means).float() * pipeline.config.vae.scaling_factor

    return prepare(targets, encode, masks, settings.background_weight, settings.flip, opaque)


def frozen_text_encoder(text_encoder: TextEncoder) -> FrozenTextEncoder:
    """The text encoder as training uses it."""
    named = text_encoder.canonical_state_dict().items()
    weights = {name.removeprefix("text_model."): tensor.float() for name, tensor in named}
    return FrozenTextEncoder(weights, text_encoder.config.num_attention_heads)


@torch.no_grad()
def with_learned(pipeline: SubjectPipeline, learned: Learned) -> SubjectPipeline:
    """The pipeline with a copy of its UNet that holds the result."""
    unet = copy.deepcopy(pipeline.unet)
    for name, weight in unet.named_parameters():
        factors = learned.factors.get(name.removesuffix(".weight"))
        if factors is not None:
            weight.add_(factors.alpha / len(factors.down) * factors.up @ factors.down)
        elif name in learned.weights:
            weight.copy_(learned.weights[name])
    return SubjectPipeline(pipeline.config, pipeline.encoder, pipeline.text_encoder, unet, pipeline.vae)
