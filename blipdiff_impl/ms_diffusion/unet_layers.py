"""The image branch in diffusers' UNet, for training and for pictures outside the host (docs/method.md 13.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.boxes import box_masks
from ..attention.grid import token_grid
from ..attention.probabilities import split_heads
from ..errors import CheckpointError, first_few
from .adapter_attention import add_subjects, coverage
from .layers import AdapterLayer, LayerKey

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


@dataclass(frozen=True, eq=False)
class SeenSubjects:
    """The subjects of a batch of pictures.

    Attributes:
        layers: keys and values `[B, subjects * tokens, width]` by layer.
        boxes: `[B, subjects, 4]`; one without area stands for no subject.
        tokens: of each subject.
        rows: of the UNet's batch that are these pictures; the others, such as those of the empty prompt, see none.
            None for all.
    """

    layers: Mapping[LayerKey, tuple[Tensor, Tensor]]
    boxes: Tensor
    tokens: int
    rows: slice | None = None


class UNetWithSubjects:
    """A UNet whose cross-attention layers show subjects while it is called through this object.

    Raises:
        CheckpointError: the UNet has other layers than the adapter.
    """

    def __init__(self, unet: UNet2DConditionModel, layers: Sequence[AdapterLayer]):
        self.unet = unet
        self._now: tuple[SeenSubjects, torch.Size] | None = None
        there = {name for name, _ in unet.named_modules() if name.endswith(".attn2")}
        if wrong := sorted(there ^ {layer.module for layer in layers}):
            raise CheckpointError(f"The UNet's cross-attention is not the adapter's: {first_few(wrong)}.")
        for layer in layers:
            attention: Any = unet.get_submodule(layer.module)
            attention.set_processor(_Layer(self, layer.key))

    def __call__(
        self, latents: Tensor, times: Tensor, context: Tensor, added: Mapping[str, Tensor], seen: SeenSubjects
    ) -> Tensor:
        """The predicted noise `[B, 4, h, w]`.

        Args:
            context: `[B, tokens, width]`.
            added: pooled text and sizes, as diffusers' `added_cond_kwargs`.
        """
        # Left in place afterwards: layers that are computed again for their gradients ask once more.
        self._now = (seen, latents.shape)
        return self.unet(latents, times, context, added_cond_kwargs=dict(added)).sample

    def add(self, text: Tensor, q: Tensor, layer: LayerKey, heads: int) -> Tensor:
        """What a layer gives out, of what attention to the text gave."""
        if self._now is None:
            return text
        seen, latent = self._now
        masks = box_masks(seen.boxes, token_grid(q.shape[1], None, latent))
        covered = coverage(masks, seen.tokens, dtype=q.dtype, look=False)
        k, v = seen.layers[layer]
        if seen.rows is None:
            return add_subjects(text, q, k, v, covered, heads)
        drawn = add_subjects(text[seen.rows], q[seen.rows], k, v, covered, heads)
        first, last, _ = seen.rows.indices(len(text))
        return torch.cat([text[:first], drawn, text[last:]])


class _Layer:
    """diffusers' processor of one cross-attention layer."""

    def __init__(self, unet: UNetWithSubjects, layer: LayerKey):
        self._unet, self._layer = unet, layer

    def __call__(self, attn: Any, hidden: Tensor, encoder_hidden_states: Tensor, **others: Any) -> Tensor:
        line = attn.to_q(hidden)
        q, k, v = (
            split_heads(each, attn.heads)
            for each in (line, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        )
        text = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out = self._unet.add(text, line, self._layer, attn.heads)
        return attn.to_out[1](attn.to_out[0](out))
