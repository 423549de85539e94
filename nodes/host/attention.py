"""Hooks on the attention layers of a MODEL: what editing, regions and attention maps are built on.

A control gets the projected queries, keys and values of one layer and returns what the layer gives out; what it does
not change goes through the host's own attention, so an idle control changes no bit. Controls stack, with each other and
with those of other packs. They live in the options of a cloned MODEL: without the clone there is no trace of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from comfy.ldm.modules.attention import optimized_attention, optimized_attention_masked
from torch import Tensor

from ...blipdiff_impl.errors import SubjectError

SELF, CROSS = "attn1", "attn2"  # the host's names
POSITIVE, NEGATIVE = 0, 1

Attend = Callable[..., Tensor]  # (q, k, v, mask=None) -> out
Control = Callable[["AttentionCall", Tensor, Tensor, Tensor, Attend], Tensor]


@dataclass(frozen=True)
class AttentionCall:
    """One evaluation of one attention layer.

    Attributes:
        block: the layer's place in the UNet: ("input" | "middle" | "output", number).
        heads: number of attention heads; q, k and v are `[batch, tokens, heads * dim]`.
        kinds: for each chunk of the batch, `POSITIVE` or `NEGATIVE` conditioning.
        size: (height, width) of the grid of query tokens.
        sigma: noise level of this evaluation.
        schedule: noise levels of the whole run, descending; None where the sampler does not say.
        entries: for each chunk, the host's id of the CONDITIONING entry it comes from; new in every run.
    """

    block: tuple[str, int]
    heads: int
    kinds: tuple[int, ...]
    size: tuple[int, int]
    sigma: float
    schedule: Tensor | None
    entries: tuple = ()

    def chunks(self, batch: int) -> Iterator[tuple[int, slice]]:
        """Each chunk's kind and its rows; a chunk holds the whole batch of pictures once."""
        rows = batch // len(self.kinds)
        for place, kind in enumerate(self.kinds):
            yield kind, slice(place * rows, (place + 1) * rows)


def attention_blocks(model) -> dict[tuple[str, int], int]:
    """Places of the attention layers of a MODEL's UNet, in order of evaluation, each with how often the latent's sides
    are halved there.

    Raises:
        SubjectError: the MODEL has no UNet of the Stable Diffusion 1 kind.
    """
    unet = model.model.diffusion_model
    if not all(hasattr(unet, name) for name in ("input_blocks", "middle_block", "output_blocks")):
        raise SubjectError(
            f"This MODEL ({type(model.model).__name__}) has no UNet with cross-attention. Connect a Stable Diffusion "
            "1.5 model."
        )
    halvings, found = 0, {}
    for number, block in enumerate(unet.input_blocks):
        halvings += any(type(layer).__name__ == "Downsample" for layer in block)
        if _has_attention(block):
            found["input", number] = halvings
    if _has_attention(unet.middle_block):
        found["middle", 0] = halvings
    for number, block in enumerate(unet.output_blocks):
        if _has_attention(block):
            found["output", number] = halvings
        halvings -= any(type(layer).__name__ == "Upsample" for layer in block)
    return found


def control_attention(model, kind: str, control: Control, blocks: list[tuple[str, int]] | None = None) -> None:
    """Put a control on attention layers of `model`, which must be a clone of the caller's own.

    Args:
        kind: `SELF` or `CROSS`.
        blocks: places of the layers; None means all.
    """
    for block in attention_blocks(model) if blocks is None else blocks:
        name, number = block
        installed = model.model_options["transformer_options"].get("patches_replace", {}).get(kind, {})
        # The host prefers the key with the transformer's index, so both are looked for and that one is set.
        inner = installed.get((name, number, 0)) or installed.get(block)
        model.set_model_patch_replace(_Hook(block, control, inner), kind, name, number, 0)


def step_of(sigma: float, schedule: Tensor) -> int:
    """Index of the step that an evaluation at `sigma` belongs to; the nearest, as samplers also look between steps."""
    return int((schedule[:-1].float().cpu() - sigma).abs().argmin())


class _Hook:
    """What the host calls instead of a layer's attention."""

    def __init__(self, block: tuple[str, int], control: Control, inner: Callable | None):
        self._block, self._control, self._inner = block, control, inner

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, options: dict, outer_mask: Tensor | None = None) -> Tensor:
        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
            if outer_mask is not None:
                mask = outer_mask if mask is None else mask + outer_mask
            if isinstance(self._inner, _Hook):
                return self._inner(q, k, v, options, mask)
            if self._inner is None or mask is not None:  # another pack's hook takes no mask
                return _host_attention(q, k, v, options, mask)
            return self._inner(q, k, v, options)

        return self._control(_call(self._block, q, options), q, k, v, attend)

    def __deepcopy__(self, memo) -> _Hook:
        return self  # older hosts copy a MODEL's options deeply; a run must find the state that its node holds


def _host_attention(q: Tensor, k: Tensor, v: Tensor, options: dict, mask: Tensor | None = None) -> Tensor:
    """Attention as the layer itself would compute it."""
    arguments = {"attn_precision": options["attn_precision"], "transformer_options": options}
    if mask is None:
        return optimized_attention(q, k, v, options["n_heads"], **arguments)
    return optimized_attention_masked(q, k, v, options["n_heads"], mask, **arguments)


def _call(block: tuple[str, int], q: Tensor, options: dict) -> AttentionCall:
    sigmas = options.get("sigmas")
    return AttentionCall(
        block,
        options["n_heads"],
        tuple(options["cond_or_uncond"]),
        _grid(options["original_shape"], q.shape[1]),
        float("nan") if sigmas is None else float(sigmas[0]),
        options.get("sample_sigmas"),
        tuple(options.get("uuids", ())),
    )


def _grid(latent_shape: list[int], tokens: int) -> tuple[int, int]:
    """Sides of the token grid: those of the latent, halved (rounding up) until they hold that many tokens."""
    height, width = latent_shape[-2:]
    while height * width > tokens:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def _has_attention(block: torch.nn.Module) -> bool:
    return any(type(layer).__name__ == "SpatialTransformer" for layer in block)
