"""The cross-attention layers of a UNet in the order of the adapter's file, and their places (docs/method.md 13.6)."""

from __future__ import annotations

from dataclasses import dataclass

from .config import UNetAttentionConfig

LayerKey = tuple[str, int, int]


@dataclass(frozen=True)
class AdapterLayer:
    """One cross-attention layer.

    Attributes:
        number: its number in the file: among all attention layers, each self-attention before its cross-attention.
        width: of its queries.
        key: its place by the UNet's numbered blocks: ("input" | "middle" | "output", block, which of the transformer).
        module: its name in diffusers.
    """

    number: int
    width: int
    key: LayerKey
    module: str


def adapter_layers(unet: UNetAttentionConfig) -> tuple[AdapterLayer, ...]:
    """All cross-attention layers: down blocks, up blocks, the middle last."""
    places = [*_down(unet), *_up(unet), *_middle(unet)]
    return tuple(
        AdapterLayer(2 * order + 1, width, key, f"{module}.transformer_blocks.{key[2]}.attn2")
        for order, (width, key, module) in enumerate(places)
    )


def _down(unet: UNetAttentionConfig):
    """Block 0 brings the latent in, and each level ends in a block that halves its sides."""
    for level, (width, depth) in enumerate(zip(unet.widths, unet.depths, strict=True)):
        for place in range(unet.transformers):
            block = 1 + level * (unet.transformers + 1) + place
            for index in range(depth):
                yield width, ("input", block, index), f"down_blocks.{level}.attentions.{place}"


def _up(unet: UNetAttentionConfig):
    levels = list(zip(unet.widths, unet.depths, strict=True))
    for level, (width, depth) in enumerate(reversed(levels)):
        for place in range(unet.transformers + 1):
            block = level * (unet.transformers + 1) + place
            for index in range(depth):
                yield width, ("output", block, index), f"up_blocks.{level}.attentions.{place}"


def _middle(unet: UNetAttentionConfig):
    for index in range(unet.middle_depth):
        yield unet.widths[-1], ("middle", 0, index), "mid_block.attentions.0"
