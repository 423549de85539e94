"""Second stage: draw the subject of one picture where a text puts it (paper section 3.3, equation 1)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...stable_diffusion.noise import add_noise
from ...stable_diffusion.text_encoder import TextEncoder
from ..subject_module import SubjectEncoderModule
from .settings import Stage2Settings

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


@dataclass(frozen=True)
class Stage2Batch:
    """Subjects, prompts and noised targets.

    Attributes:
        features: rows of the frozen tower for the subject on another background, `[B, P, W]`.
        words, word_mask: word pieces of the category `[B, T]`.
        ids: prompts `[B, 77]`.
        places: positions of the subject vectors `[B, queries]`.
        has_subject: `[B]`, False where the subject was dropped.
        latents, noise: target and what is added to it, `[B, 4, h, w]`.
        times: timesteps `[B]`.
        alphas: alpha bar of each timestep `[B]`.
        weights: of the squared error, `[B, 1, h, w]`.
    """

    features: Tensor
    words: Tensor
    word_mask: Tensor
    ids: Tensor
    places: Tensor
    has_subject: Tensor
    latents: Tensor
    noise: Tensor
    times: Tensor
    alphas: Tensor
    weights: Tensor


class Stage2Model(nn.Module):
    """Everything that the second stage trains. `forward` gives the loss of noise prediction."""

    def __init__(
        self,
        encoder: SubjectEncoderModule,
        text_encoder: TextEncoder,
        unet: UNet2DConditionModel,
        settings: Stage2Settings,
    ):
        super().__init__()
        self.qformer = encoder.qformer
        self.proj_layer = encoder.proj_layer
        self.image_norm = copy.deepcopy(encoder.visual_encoder.post_layernorm)
        self.text_encoder = text_encoder
        self.unet = unet
        self._sees_text = settings.subject_text

    def forward(self, batch: Stage2Batch) -> dict[str, Tensor]:
        """The weighted mean squared error of the predicted noise."""
        noisy = add_noise(batch.latents, batch.noise, batch.alphas)
        predicted = self.unet(noisy, batch.times, self.context(batch)).sample
        return {"noise": (batch.weights * (predicted.float() - batch.noise).square()).mean()}

    def context(self, batch: Stage2Batch) -> Tensor:
        """The text encoder's rows `[B, 77, W]`; a dropped subject leaves its places to the text."""
        mask = batch.word_mask if self._sees_text else torch.zeros_like(batch.word_mask)
        vectors = self.proj_layer(self.qformer(self.image_norm(batch.features), batch.words, mask))
        text = self.text_encoder.token_embedding()(batch.ids.gather(1, batch.places))
        spliced = torch.where(batch.has_subject[:, None, None], vectors.to(text.dtype), text)
        return self.text_encoder(batch.ids, batch.places, spliced)

    def after_step(self) -> None:
        """Nothing to keep in a range."""
