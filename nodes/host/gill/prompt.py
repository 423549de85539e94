"""Prompts for GILL from what an artist types and connects."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ....blipdiff_impl.gill.interleaving import Prompt, dialogue_turn, parse_prompt

PICTURE_NAMES = tuple(f"image{number}" for number in range(1, 17))


def make_prompt(text: str, pictures: Mapping[str, Tensor] | None) -> Prompt:
    """A text with pictures in their places; see `parse_prompt`."""
    return parse_prompt(text, _numbered(pictures))


def make_turn(text: str, pictures: Mapping[str, Tensor] | None, previous: Prompt | None, reply: str) -> Prompt:
    """A dialogue with one more question; see `dialogue_turn`."""
    return dialogue_turn(previous, reply, text, _numbered(pictures))


def _numbered(pictures: Mapping[str, Tensor] | None) -> dict[int, Tensor]:
    """Pictures by the number in their input's name; inputs that grow come as a table, also of what is not connected."""
    given = pictures if isinstance(pictures, Mapping) else {}
    return {
        PICTURE_NAMES.index(name) + 1: each
        for name, each in given.items()
        if each is not None and name in PICTURE_NAMES
    }
