"""Hooks on the attention layers of a MODEL: what editing, regions and attention maps are built on.

A control gets the projected queries, keys and values of one layer and returns what the layer gives out; what it does
not change goes through the host's own attention, so an idle control changes no bit. Controls stack, and live in the
options of a cloned MODEL: without the clone there is no trace of them.

The hooks are set anew for each evaluation, when it is known what other packs have set: on either of the host's keys,
before us or after us, or for this evaluation alone (as perturbed-attention guidance does). What they set is called with
the whole batch, and what a control changes is added to what it gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention, optimized_attention_masked
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...blipdiff_impl.attention.grid import token_grid
from ...blipdiff_impl.errors import SubjectError

SELF, CROSS = "attn1", "attn2"  # the host's names
POSITIVE, NEGATIVE = 0, 1

_CONTROLS_KEY = "blipdiffusion_attention"  # in a MODEL's transformer_options

Block = tuple[str, int]  # ("input" | "middle" | "output", number)
Layer = tuple[str, int, int]  # a block, and which of its transformers
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # (q, k, v) -> out
# Rows of the batch whose attention another takes over; rows of several changes do not overlap.
Change = tuple[slice, Attention]
# (q, k, v, changes=()) -> out, always for the whole batch: what lies inside a control.
Attend = Callable[..., Tensor]
Control = Callable[["AttentionCall", Tensor, Tensor, Tensor, Attend], Tensor]


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One evaluation of one attention layer.

    Attributes:
        layer: its place in the UNet.
        heads: number of attention heads; q, k and v are `[batch, tokens, heads * dim]`.
        kinds: for each chunk of the batch, `POSITIVE` or `NEGATIVE` conditioning.
        entries: for each chunk, what `TagFinder.find` knows its CONDITIONING entry by; new in every run.
        pictures: rows of the batch that the UNet was given; tiling nodes split them before self-attention.
        tokens: number of queries of a row.
        options: the host's, for this layer.
    """

    layer: Layer
    heads: int
    kinds: tuple[int, ...]
    entries: tuple[tuple, ...]
    pictures: int
    tokens: int
    options: dict

    @property
    def block(self) -> Block:
        return self.layer[:2]

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) of the grid of query tokens.

        Raises:
            SubjectError: the queries are no grid of the picture's shape.
        """
        return token_grid(self.tokens, self.options.get("activations_shape"), self.options["original_shape"])

    def chunks(self, batch: int) -> Iterator[tuple[int, slice]]:
        """Each chunk's kind and its rows; a chunk holds the whole batch of pictures once."""
        return zip(self.kinds, self._rows(batch, len(self.kinds)), strict=True)

    def parts(self) -> Iterator[tuple[tuple, slice]]:
        """Each chunk's entry and its rows of the pictures."""
        return zip(self.entries, self._rows(self.pictures, len(self.entries)), strict=True)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention as the layer itself would compute it, for any rows.

        Args:
            mask: `[rows, queries, keys]`, added to the scores.
        """
        arguments = {"attn_precision": self.options["attn_precision"], "transformer_options": self.options}
        if mask is None:
            return optimized_attention(q, k, v, self.heads, **arguments)
        return optimized_attention_masked(q, k, v, self.heads, mask, **arguments)

    @staticmethod
    def _rows(batch: int, count: int) -> Iterator[slice]:
        rows = batch // max(1, count)
        return (slice(place * rows, (place + 1) * rows) for place in range(count))


def attention_blocks(model) -> dict[Block, int]:
    """Places of the attention layers of a MODEL's UNet, in order of evaluation, each with how often the latent's sides
    are halved there.

    Raises:
        SubjectError: the MODEL has no UNet of the Stable Diffusion 1 kind.
    """
    return {block: downsamples for block, (downsamples, _) in _attention_blocks(model).items()}


def attention_layers(model) -> list[Layer]:
    """Places of all layers of one kind, self- or cross-attention, of a MODEL's UNet, in order of evaluation.

    Raises:
        SubjectError: the MODEL has no such UNet.
    """
    return [(*block, index) for block, (_, depth) in _attention_blocks(model).items() for index in range(depth)]


def control_attention(model, kind: str, control: Control, blocks: Sequence[Block] | None = None) -> None:
    """Put a control on attention layers of `model`, which must be a clone of the caller's own. It goes around those
    that are there.

    Args:
        kind: `SELF` or `CROSS`.
        blocks: places of the layers; None means all. All transformers of a block are controlled.
    """
    layers = [layer for layer in attention_layers(model) if blocks is None or layer[:2] in blocks]
    options = model.model_options["transformer_options"]
    if _CONTROLS_KEY not in options:
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, _CONTROLS_KEY, _with_hooks)
    options[_CONTROLS_KEY] = (*options.get(_CONTROLS_KEY, ()), _Controlled(kind, frozenset(layers), control))


@dataclass(frozen=True, eq=False)
class _Controlled:
    """A control and the layers that it is on."""

    kind: str
    layers: frozenset[Layer]
    control: Control

    def __deepcopy__(self, memo) -> _Controlled:
        return self  # older hosts copy a MODEL's options deeply; a run must find the state that its node holds


def _with_hooks(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options: dict | None = None, **kwargs
) -> Tensor:
    """An evaluation of the UNet with hooks on its controlled layers."""
    options = transformer_options or {}
    replaced = dict(options.get("patches_replace", {}))
    for kind in (SELF, CROSS):
        controlled = [each for each in options.get(_CONTROLS_KEY, ()) if each.kind == kind]
        found = replaced.get(kind, {})
        hooks = {
            # The host prefers the key with the transformer's number.
            layer: _Hook(layer, kind, controlled, found.get(layer) or found.get(layer[:2]))
            for layer in frozenset().union(*(each.layers for each in controlled))
        }
        replaced[kind] = {**found, **hooks}
    return executor(x, t, c_concat, c_crossattn, control, {**options, "patches_replace": replaced}, **kwargs)


class _Hook:
    """What the host calls instead of a layer's attention in one evaluation."""

    def __init__(self, layer: Layer, kind: str, controlled: list[_Controlled], foreign: Callable | None):
        self._layer, self._kind, self._foreign = layer, kind, foreign
        self._controls = [each.control for each in controlled if layer in each.layers]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        kinds, pictures = tuple(options.get("cond_or_uncond", ())), options["original_shape"][0]
        if self._kind == CROSS and len(q) != pictures:
            raise SubjectError(
                f"Another node on this MODEL makes {len(q)} pictures of {pictures} inside cross-attention, as couples "
                "of prompts do. Leave it out, or the node of this pack that patches the MODEL."
            )
        entries = tuple(zip(kinds, options.get("uuids", ()), strict=False))
        call = AttentionCall(self._layer, options["n_heads"], kinds, entries, pictures, q.shape[1], options)
        return self._go_on(call, self._controls, (), q, k, v)

    def _go_on(
        self, call: AttentionCall, controls: list[Control], changes: tuple[Change, ...], q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        if not controls:
            return self._innermost(call, changes, q, k, v)
        *inner, outermost = controls

        def attend(q: Tensor, k: Tensor, v: Tensor, more: Sequence[Change] = ()) -> Tensor:
            return self._go_on(call, inner, (*changes, *more), q, k, v)

        return outermost(call, q, k, v, attend)

    def _innermost(self, call: AttentionCall, changes: tuple[Change, ...], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._foreign is None:
            changed = sum(rows.stop - rows.start for rows, _ in changes)
            out = torch.empty_like(q) if changed == len(q) else call.attention(q, k, v)
            for rows, attention in changes:
                out[rows] = attention(q[rows], k[rows], v[rows])
            return out
        out = self._foreign(q, k, v, call.options)
        if changes:
            out = out.clone()  # it may be one of the tensors that went in
        for rows, attention in changes:
            part = (q[rows], k[rows], v[rows])
            out[rows] += attention(*part) - call.attention(*part)
        return out


def _attention_blocks(model) -> dict[Block, tuple[int, int]]:
    """For each block with attention how often the latent's sides are halved there, and its number of transformers."""
    unet = model.model.diffusion_model
    if not all(hasattr(unet, name) for name in ("input_blocks", "middle_block", "output_blocks")):
        raise SubjectError(
            f"This MODEL ({type(model.model).__name__}) has no UNet with cross-attention. Connect a model of "
            "Stable Diffusion: 1.5, or XL for what was made for that."
        )
    downsamples, found = 0, {}
    for number, block in enumerate(unet.input_blocks):
        downsamples += any(type(layer).__name__ == "Downsample" for layer in block)
        found["input", number] = (downsamples, _depth(block))
    found["middle", 0] = (downsamples, _depth(unet.middle_block))
    for number, block in enumerate(unet.output_blocks):
        found["output", number] = (downsamples, _depth(block))
        downsamples -= any(type(layer).__name__ == "Upsample" for layer in block)
    return {block: (downsamples, depth) for block, (downsamples, depth) in found.items() if depth}


def _depth(block: Iterable[Any]) -> int:
    """Transformers of a block of the UNet: 0 without attention, 1 in Stable Diffusion 1.5, up to 10 in SDXL."""
    return sum(len(layer.transformer_blocks) for layer in block if type(layer).__name__ == "SpatialTransformer")
