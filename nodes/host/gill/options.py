"""What an artist chooses for a reply of GILL."""

from __future__ import annotations

from ....blipdiff_impl.gill.decoding_settings import (
    MODES,
    MOST_BIAS,
    MOST_PICTURES,
    MOST_TEMPERATURE,
    MOST_TOKENS,
    DecodingSettings,
)

__all__ = [
    "MODES", "MOST_BIAS", "MOST_PICTURES", "MOST_TEMPERATURE", "MOST_TOKENS", "REPLIES", "TOO_LONG", "DecodingSettings",
]  # fmt: skip

FULL, SENTENCE = REPLIES = ("full", "first sentence")
REFUSE, CUT = TOO_LONG = ("refuse", "leave out the oldest")
