"""What is trained: the adapter, with the loss of noise prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SubjectError
from ...stable_diffusion.noise import add_noise
from ..adapter import MSAdapter
from ..unet_layers import SeenSubjects, UNetWithSubjects


@dataclass(frozen=True)
class MSBatch:
    """Subjects, prompts and noised targets.

    Attributes:
        features: of the picture encoder, `[B, subjects, tokens, width]`.
        phrases: `[B, subjects, width]`.
        boxes: `[B, subjects, 4]`, without area where there is no subject.
        ungrounded: bool `[B]`.
        context, pooled: the prompt, `[B, 77, width]` and `[B, width]`; None where the UNet takes no pooled text.
        sizes: size and crop of the picture, as the UNet takes them, `[B, 6]`.
        latents, noise: target and what is added to it, `[B, 4, h, w]`.
        times, alphas: timesteps and the alpha bar of each, `[B]`.
        weights: of errors by place, `[B, 1, h, w]`.
        columns: to be imitated instead of predicting noise, `[B, subjects, tokens, width]`; None in other runs.
    """

    features: Tensor
    phrases: Tensor
    boxes: Tensor
    ungrounded: Tensor
    context: Tensor
    pooled: Tensor | None
    sizes: Tensor
    latents: Tensor
    noise: Tensor
    times: Tensor
    alphas: Tensor
    weights: Tensor
    columns: Tensor | None = None

    @property
    def added(self) -> dict[str, Tensor]:
        """What the UNet takes beside the prompt's rows."""
        return {} if self.pooled is None else {"text_embeds": self.pooled, "time_ids": self.sizes}


class MSModel(nn.Module):
    """The adapter in training; the UNet is no part of it, and so of no checkpoint."""

    def __init__(self, adapter: MSAdapter, unet: UNetWithSubjects):
        super().__init__()
        self.adapter = adapter.requires_grad_(True)
        self._unet = unet  # no module: it is frozen, and moved with the other frozen parts

    def forward(self, batch: MSBatch) -> dict[str, Tensor]:
        """The weighted mean squared error of the predicted noise, or that of imitated columns."""
        if batch.columns is not None:
            return {"columns": self._imitated(batch, batch.columns)}
        noisy = add_noise(batch.latents, batch.noise, batch.alphas)
        predicted = self._unet(noisy, batch.times, batch.context, batch.added, self.seen(batch))
        return {"noise": (batch.weights * (predicted.float() - batch.noise).square()).mean()}

    def seen(self, batch: MSBatch, rows: slice | None = None) -> SeenSubjects:
        """Keys and values of the batch's subjects in every layer."""
        tokens = self._tokens(batch)
        line = tokens.flatten(1, 2)
        layers = {layer.key: self.adapter.ms_adapter[str(layer.number)](line) for layer in self.adapter.layers}
        return SeenSubjects(layers, batch.boxes, tokens.shape[2], rows)

    def _tokens(self, batch: MSBatch) -> Tensor:
        """Of all subjects, `[B, subjects, tokens, width]`."""
        count = batch.boxes.shape[1]
        tokens = self.adapter.image_proj(
            batch.features.flatten(0, 1), batch.phrases.flatten(0, 1), batch.boxes.flatten(0, 1),
            batch.ungrounded.repeat_interleave(count),
        )  # fmt: skip
        return tokens.unflatten(0, (-1, count))

    def _imitated(self, batch: MSBatch, columns: Tensor) -> Tensor:
        """The squared error of the tokens of true subjects, as a share of how far columns are from their mean."""
        there = (batch.boxes[..., 2] > batch.boxes[..., 0]).float()[..., None, None]
        tokens = self._tokens(batch)
        if tokens.shape != columns.shape:
            raise SubjectError(
                f"The adapter makes {tokens.shape[2]} tokens of width {tokens.shape[3]} of a subject, its vectors are "
                f"{columns.shape[2]} of width {columns.shape[3]}. Set queries to {columns.shape[2]}."
            )
        mean = (there * columns).sum((0, 1)) / there.sum().clamp(min=1)
        spread = (there * (columns - mean).square()).sum()
        return (there * (tokens.float() - columns).square()).sum() / spread.clamp(min=1e-6)

    def after_step(self) -> None:
        """Nothing to keep in a range."""


@torch.no_grad()
def begin_as_text(adapter: MSAdapter, unet: nn.Module, norm: nn.LayerNorm | None = None) -> None:
    """Keys and values of every layer begin as those that the UNet has for text, and the tokens' norm as the text's."""
    if norm is not None:
        adapter.image_proj.norm_out.load_state_dict(norm.state_dict())
    for layer in adapter.layers:
        attention: Any = unet.get_submodule(layer.module)
        own: Any = adapter.ms_adapter[str(layer.number)]
        own.to_k_ip.weight.copy_(attention.to_k.weight)
        own.to_v_ip.weight.copy_(attention.to_v.weight)
