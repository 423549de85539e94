"""The frozen CLIP text encoder, differentiable in what stands at the places of its tokens.

Training sends gradients through all of its layers at every step, into 16 vectors, so it is written for that: functions
on plain tensors, one fused projection per attention, no padding mask. What it computes is CLIP-L (docs/method.md 1.5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...stable_diffusion.text_encoder import quick_gelu

_EPS = 1e-5
_LAYER = "encoder.layers."


class FrozenTextEncoder:
    """A text encoder as functions of its weights.

    Args:
        weights: float32, by transformers' names without `text_model.`.
        heads: attention heads per layer.
        skip: layers left out at the end (the artist's "clip skip" less one).
        activation: of the feed-forward layers.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        heads: int,
        skip: int = 0,
        activation: Callable[[Tensor], Tensor] = quick_gelu,
    ):
        count = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith(_LAYER))
        self._table = weights["embeddings.token_embedding.weight"]
        self._positions = weights["embeddings.position_embedding.weight"]
        self._final = weights["final_layer_norm.weight"], weights["final_layer_norm.bias"]
        self._layers = [_Layer(weights, f"{_LAYER}{i}.", heads, activation) for i in range(count - skip)]

    def embed(self, ids: list[int]) -> Tensor:
        """Rows of the token table, `[L, W]`."""
        return self._table[torch.tensor(ids, device=self._table.device)].to(self._positions)

    def __call__(self, embedded: Tensor) -> Tensor:
        """Token embeddings or vectors `[B, L, W]`, L at most 77, to hidden states after the final norm."""
        x = embedded + self._positions[: embedded.shape[1]]
        for layer in self._layers:
            x = layer(x)
        return _norm(x, self._final)


class _Layer:
    """Pre-norm self-attention and feed-forward, both residual."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str, heads: int, activation: Callable[[Tensor], Tensor]):
        def pair(name: str) -> tuple[Tensor, Tensor]:
            return weights[f"{prefix}{name}.weight"], weights[f"{prefix}{name}.bias"]

        projections = [pair(f"self_attn.{name}_proj") for name in "qkv"]
        self._heads, self._activation = heads, activation
        self._qkv = tuple(torch.cat(parts) for parts in zip(*projections, strict=True))
        self._out = pair("self_attn.out_proj")
        self._norm1, self._norm2 = pair("layer_norm1"), pair("layer_norm2")
        self._fc1, self._fc2 = pair("mlp.fc1"), pair("mlp.fc2")

    def __call__(self, x: Tensor) -> Tensor:
        x = x + F.linear(self._attend(_norm(x, self._norm1)), *self._out)
        return x + F.linear(self._activation(F.linear(_norm(x, self._norm2), *self._fc1)), *self._fc2)

    def _attend(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, *self._qkv).unflatten(-1, (3, self._heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, L, W / heads]
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def _norm(x: Tensor, weight_and_bias: tuple[Tensor, Tensor]) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], *weight_and_bias, _EPS)
