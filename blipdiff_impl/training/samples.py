"""One line of training data, and what is said of a line that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import SubjectError


class BrokenSample(SubjectError):
    """A sample that cannot be read; it is named, left out, and training goes on."""


@dataclass(frozen=True, eq=False)
class Reference:
    """One of several subjects of a picture, as another picture shows it.

    Attributes:
        picture: uint8 `[H, W, 3 | 4]`; transparent where there is something else.
        phrase: what it is called.
        box: left, top, right and bottom in the picture that it is a subject of, in 0..1.
        vectors: float32 `[queries, W]`, what another method makes of the subject, to be imitated; None where the data
            has none.
    """

    picture: np.ndarray
    phrase: str
    box: tuple[float, float, float, float]
    vectors: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and what is known of it.

    Attributes:
        key: what it is called in messages.
        picture: uint8 `[H, W, 3]`, the original.
        captions: one or several; one is drawn each time.
        category: what the subject is; empty where the data has none (first stage only).
        composite: uint8 `[H, W, 3]`, the subject on another background; None where the data has none.
        mask: uint8 `[H, W]`, 255 on the subject in `picture`.
        context: the caption without the thing itself ("on the grass"), for prompts in the release's form.
        latent: float32 `[4, h, w]`, scaled latent mean of the target, computed before.
        references: of its subjects, where it has several with boxes.
        conversation: what was said before the picture, questions and answers by turns: `<image1>` stands for the first
            of `pictures`; the picture belongs behind the last text, which is an answer, or a question without one.
        pictures: uint8 `[H, W, 3]` each, those of the conversation.
        target: what the picture is called for a text encoder, where that is not its caption.
    """

    key: str
    picture: np.ndarray
    captions: tuple[str, ...]
    category: str = ""
    composite: np.ndarray | None = None
    mask: np.ndarray | None = None
    context: str = ""
    latent: np.ndarray | None = None
    references: tuple[Reference, ...] = ()
    conversation: tuple[str, ...] = ()
    pictures: tuple[np.ndarray, ...] = ()
    target: str = ""


class Source(Protocol):
    """Samples by number. `groups` says how many lie together (a shard's), so that reading stays local."""

    groups: list[int]

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, counted through all groups.

        Raises:
            BrokenSample: this one cannot be used.
        """
        ...
