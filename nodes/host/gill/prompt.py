"""Prompts for GILL from what an artist types and connects."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ....blipdiff_impl.gill.interleaving import Prompt, check_places, dialogue_turn, parse_prompt, split_places
from ..refusals import first_refusal, typed

PICTURE_NAMES = tuple(f"image{number}" for number in range(1, 17))


def make_prompt(text: str, pictures: Mapping[str, Tensor] | None) -> Prompt:
    """A text with pictures in their places; see `parse_prompt`."""
    return parse_prompt(text, _numbered(pictures))


def make_turn(text: str, pictures: Mapping[str, Tensor] | None, previous: Prompt | None, reply: str) -> Prompt:
    """A dialogue with one more question; see `dialogue_turn`."""
    return dialogue_turn(previous, reply, text, _numbered(pictures))


def text_refusal(text, pictures) -> bool | str:
    """A text that is typed and empty, or has a place without a picture.

    Args:
        pictures: the growing inputs as they come in, with a name for each link; no table where the host gives none.
    """
    words = typed(text)
    if words is None or not isinstance(pictures, Mapping):
        return True
    numbers = [PICTURE_NAMES.index(name) + 1 for name in pictures if name in PICTURE_NAMES]
    return first_refusal(("text", lambda: check_places(split_places(words), numbers)))


def _numbered(pictures: Mapping[str, Tensor] | None) -> dict[int, Tensor]:
    """Pictures by the number in their input's name; inputs that grow come as a table, also of what is not connected."""
    given = pictures if isinstance(pictures, Mapping) else {}
    return {
        PICTURE_NAMES.index(name) + 1: each
        for name, each in given.items()
        if each is not None and name in PICTURE_NAMES
    }
