"""Sizes of an MS-Diffusion adapter; the defaults are those of the released one (docs/method.md 13.2)."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from ..errors import CheckpointError
from ..settings import typed_record
from ..untrusted import parse_json

_LARGEST = 1 << 16
_LIMITS = {"depth": 64, "heads": 256, "queries": 1024, "feed_forward": 16, "frequencies": 64}


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig:
    """The grounding resampler.

    Attributes:
        image_width: width of the image tokens: the last hidden states but one of CLIP ViT-bigG/14.
        width: of its own tokens.
        depth: blocks of attention and feed-forward.
        heads, head_width: of its attention.
        queries: tokens that a subject becomes.
        feed_forward: width of the feed-forward, in widths.
        frequencies: of the Fourier features of a box.
        phrase_width: width of the phrase's vector: the state of CLIP-L at the end of text.
        context_width: width of the tokens that come out, as wide as the UNet's text.
    """

    image_width: int = 1664
    width: int = 1280
    depth: int = 4
    heads: int = 20
    head_width: int = 64
    queries: int = 16
    feed_forward: int = 4
    frequencies: int = 8
    phrase_width: int = 768
    context_width: int = 2048


@dataclass(frozen=True, kw_only=True)
class UNetAttentionConfig:
    """Where the UNet has cross-attention, level by level from the finest; the defaults are Stable Diffusion XL's.

    Attributes:
        widths: of the levels.
        depths: cross-attentions one after the other in each transformer of a level; 0 where it has none.
        middle_depth: the same in the middle.
        transformers: in each level of the down blocks; the up blocks have one more.
    """

    widths: tuple[int, ...] = (320, 640, 1280)
    depths: tuple[int, ...] = (0, 2, 10)
    middle_depth: int = 10
    transformers: int = 2


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """A whole adapter.

    Attributes:
        dummy_tokens: vectors that the released file holds and nothing that is computed depends on.
    """

    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    unet: UNetAttentionConfig = field(default_factory=UNetAttentionConfig)
    dummy_tokens: int = 4

    def __post_init__(self):
        """Refuse sizes that no adapter has, before anything is built from them.

        Raises:
            CheckpointError: names the size and its limits.
        """
        for name, value in dataclasses.asdict(self.resampler).items():
            _require(f"resampler.{name}", value, 1, _LIMITS.get(name, _LARGEST))
        unet = self.unet
        if len(unet.widths) != len(unet.depths):
            raise CheckpointError(
                f"The adapter's unet has {len(unet.widths)} widths and {len(unet.depths)} depths; each level has one."
            )
        _require("unet levels", len(unet.widths), 1, 8)
        for width in unet.widths:
            _require("unet.widths", width, 1, _LARGEST)
        for depth in (*unet.depths, unet.middle_depth):
            _require("unet.depths", depth, 0, 32)
        _require("unet.transformers", unet.transformers, 1, 8)
        _require("dummy_tokens", self.dummy_tokens, 0, 1024)

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AdapterConfig:
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: the text is no JSON object, has a field that this version does not know, or a size that
                no adapter has.
        """
        try:
            record = parse_json(text)
        except ValueError as error:
            raise CheckpointError(
                f"The adapter's configuration is not valid JSON ({error}). Convert the file again."
            ) from error
        return typed_record(cls, record, "adapter's configuration")


def _require(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise CheckpointError(f"The adapter's {name} is {value}; from {low} to {high} is possible. Convert it again.")


RELEASED = AdapterConfig()
