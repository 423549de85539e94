"""Settings that decide what is in the shards; how fast they are made is no part of it."""

from __future__ import annotations

from dataclasses import dataclass

from ....errors import SubjectError
from ....pictures.matting.trimap import BACKGROUND_THRESHOLD, EDGE, FOREGROUND_THRESHOLD
from ....settings import require_in_range


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """Defaults are the author's preparation code where it says something (docs/method.md 9.2).

    Attributes:
        seed: of backgrounds and their crops.
        picture_side: shorter side of the original in the shards; smaller ones stay as they are.
        composite_side: shorter side of the subject on its new background.
        working_side: longer side that alpha is solved at, of the part of the photo with the subject.
        edge: half the unknown band around a given mask, as a part of the picture's size.
        foreground_threshold, background_threshold: of a segmenter's confidence, stretched to 0..1.
        least_side: pixels a side that photo and subject's box must have at least.
        least_cover, most_cover: how much of its box a subject may fill.
        quality: of the JPEG members.
        shard_samples: samples of a shard; the last one may have fewer.
    """

    seed: int = 1337
    picture_side: int = 512
    composite_side: int = 256
    working_side: int = 256
    edge: float = EDGE
    foreground_threshold: float = FOREGROUND_THRESHOLD
    background_threshold: float = BACKGROUND_THRESHOLD
    least_side: int = 32
    least_cover: float = 0.1
    most_cover: float = 0.98
    quality: int = 92
    shard_samples: int = 1000

    def __post_init__(self):
        for name, (low, high) in _RANGES.items():
            require_in_range(name, getattr(self, name), low, high)
        for low, high in (("least_cover", "most_cover"), ("background_threshold", "foreground_threshold")):
            if not getattr(self, low) < getattr(self, high):
                raise SubjectError(f"{low} = {getattr(self, low):g} should be below {high} = {getattr(self, high):g}.")


_RANGES = {
    "seed": (0, 2**63 - 1), "picture_side": (16, 8192), "composite_side": (16, 8192), "working_side": (16, 8192),
    "edge": (0, 0.5), "foreground_threshold": (0, 0.999), "background_threshold": (0, 0.999),
    "least_side": (8, 8192), "least_cover": (0, 1), "most_cover": (0, 1), "quality": (1, 100),
    "shard_samples": (1, 1_000_000),
}  # fmt: skip
