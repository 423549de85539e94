"""One line of training data, and what is said of a line that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import SubjectError


class BrokenSample(SubjectError):
    """A sample that cannot be read; it is named, left out, and training goes on."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and what is known of it.

    Attributes:
        key: what it is called in messages.
        picture: uint8 `[H, W, 3]`, the original.
        captions: one or several; one is drawn each time.
        category: what the subject is; empty where the data has none (first stage only).
        composite: uint8 `[H, W, 3]`, the subject on another ground; None where the data has none.
        mask: uint8 `[H, W]`, 255 on the subject in `picture`.
        context: the caption without the thing itself ("on the grass"), for prompts in the release's form.
        latent: float32 `[4, h, w]`, scaled latent mean of the target, computed before.
    """

    key: str
    picture: np.ndarray
    captions: tuple[str, ...]
    category: str = ""
    composite: np.ndarray | None = None
    mask: np.ndarray | None = None
    context: str = ""
    latent: np.ndarray | None = None


class Source(Protocol):
    """Samples by number. `groups` says how many lie together (a shard's), so that reading stays local."""

    groups: list[int]

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, counted through all groups.

        Raises:
            BrokenSample: this one cannot be used.
        """
        ...
