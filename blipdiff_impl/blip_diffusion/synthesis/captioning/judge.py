"""Which captions of a photo are kept, and how they are put in order (paper, stage 2; docs/method.md 9.2).

Of many captions up to five that name the subject are kept, best first; where none does, the best one alone. The best
one is the one that CLIP finds closest to the photo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor

from ....pictures.towers import ClipTower

KEEP = 5

# Words of a class name that say nothing about the subject: "chest of drawers", "bow and arrow".
_LITTLE = {"a", "an", "and", "for", "in", "of", "on", "or", "the", "to", "with"}
_WORD = re.compile(r"[^\W_]+")


def tidy(captions: Iterable[str]) -> list[str]:
    """Captions with single spaces, without empty ones and without repetitions, in their order."""
    kept: dict[str, str] = {}
    for caption in captions:
        line = " ".join(caption.split())
        kept.setdefault(line.lower(), line)
    return [line for line in kept.values() if line]


def names_subject(caption: str, category: str) -> bool:
    """Whether a word of the category, or its plural in s or es, is among the caption's words."""
    words = set(_WORD.findall(category.lower()))
    wanted = words - _LITTLE or words
    return any(form in wanted for word in _WORD.findall(caption.lower()) for form in _singulars(word))


def _singulars(word: str) -> tuple[str, ...]:
    return (word, word.removesuffix("s"), word.removesuffix("es"))


def choose(captions: list[str], category: str, keep: int = KEEP) -> tuple[str, ...]:
    """The first `keep` captions that name the subject, else the first caption; none of none."""
    named = [caption for caption in captions if names_subject(caption, category)]
    return tuple(named[:keep] or captions[:1])


class CaptionJudge:
    """CLIP (the author took ViT-L/14) as a judge of captions."""

    def __init__(self, tower: ClipTower):
        self._tower = tower

    @property
    def fingerprint(self) -> str:
        """Of configuration and weights."""
        return self._tower.fingerprint

    def rank(self, picture: Image.Image, captions: list[str]) -> list[str]:
        """Captions, the one with the largest cosine to the picture first; equal ones keep their order."""
        if len(captions) < 2:
            return captions
        order = torch.argsort(self.similarities(picture, captions), descending=True, stable=True)
        return [captions[index] for index in order]

    def similarities(self, picture: Image.Image, captions: list[str]) -> Tensor:
        """Cosines `[N]` of a picture and its captions, -1..1."""
        return self._tower.texts(captions) @ self._tower.pictures([picture])[0]
