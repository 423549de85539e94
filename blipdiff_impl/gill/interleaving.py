"""Prompts of words and pictures, and the order in which a language model reads them (docs/method.md 14.5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from ..errors import SubjectError, excerpt, first_few
from ..pictures.preprocess import check_photos
from ..prompts.rows import check_length

_PLACE = re.compile(r"<image(\d{1,4})>")


@dataclass(frozen=True, eq=False)
class Prompt:
    """Texts and pictures (each `[1, H, W, 1 | 3 | 4]` in 0..1) in the order in which they are read.

    Two texts never stand beside each other: they are one, so that words at the seam become the tokens that they would
    be in one text.
    """

    items: tuple[str | Tensor, ...] = ()

    def __post_init__(self):
        merged: list[str | Tensor] = []
        for item in self.items:
            if isinstance(item, str) and merged and isinstance(merged[-1], str):
                merged[-1] += item
            elif not isinstance(item, str) or item:
                merged.append(item)
        object.__setattr__(self, "items", tuple(merged))

    def __add__(self, other: Prompt) -> Prompt:
        return Prompt((*self.items, *other.items))

    @property
    def pictures(self) -> list[Tensor]:
        return [item for item in self.items if not isinstance(item, str)]


def parse_prompt(text: str, pictures: Mapping[int, Tensor]) -> Prompt:
    """A text with `<image1>`, `<image2>` in the places of pictures.

    Space in front of a picture's place is left out, and so is space in front of the first words and behind the last:
    the language model's own tokens begin with their space.

    Args:
        pictures: by their number in the text, each one photo.

    Raises:
        SubjectError: nothing in it, a place without a picture, a picture without a place, or one that cannot be used.
    """
    check_length("The prompt", text)
    for number, picture in pictures.items():
        _require_picture(number, picture)
    pieces = split_places(text.strip())
    check_places(pieces, pictures)
    if unused := sorted(set(pictures) - set(pieces)):
        raise SubjectError(
            f"The picture image{unused[0]} has no place in the text {excerpt(text.strip(), 60)}. Write "
            f"<image{unused[0]}> where the model should see it."
        )
    items: list[str | Tensor] = []
    for piece in pieces:
        if isinstance(piece, int):
            items.append(pictures[piece])
            continue
        words = any(isinstance(item, str) and item for item in items)
        items.append(piece.rstrip() if words else piece.strip())
    return Prompt(tuple(items))


def check_places(pieces: Sequence[str | int], pictures: Collection[int]) -> None:
    """Whether the text can be read with these pictures.

    Args:
        pieces: from `split_places`.
        pictures: the numbers of those that are connected.

    Raises:
        SubjectError: a place without a picture, or neither words nor pictures.
    """
    if missing := sorted({piece for piece in pieces if isinstance(piece, int) and piece not in pictures}):
        there = first_few(f"image{number}" for number in sorted(pictures)) or "none"
        raise SubjectError(
            f"The prompt has <image{missing[0]}>, but no picture is connected to image{missing[0]} (connected: "
            f"{there}). Connect one, or take the place out of the text."
        )
    if not pictures and not "".join(map(str, pieces)).strip():
        raise SubjectError("The prompt is empty. Write something, or connect a picture and write <image1>.")


def split_places(text: str) -> list[str | int]:
    """A text cut at the places of pictures: pieces of text, which may be empty, and the numbers between them."""
    return [int(piece) if number % 2 else piece for number, piece in enumerate(_PLACE.split(text))]


def dialogue_turn(previous: Prompt | None, reply: str, text: str, pictures: Mapping[int, Tensor]) -> Prompt:
    """A dialogue with one more question, ready for its answer: "Q: ...\\nA:" (docs/method.md 14.5).

    Pictures at the beginning of the question stand before its "Q:", those inside it where they are.

    Args:
        previous: what was said before the question, as it was given to the model; None at the beginning.
        reply: what the model answered to that.
        text, pictures: the question, as `parse_prompt` takes them.

    Raises:
        SubjectError: as `parse_prompt`; or a reply to nothing.
    """
    check_length("The reply", reply)
    question = parse_prompt(text, pictures)
    items = question.items
    first = next((number for number, item in enumerate(items) if isinstance(item, str)), len(items))
    asked = Prompt((*items[:first], "Q: ", *items[first:], "\nA:"))
    if previous is None:
        if reply.strip():
            raise SubjectError(
                f"There is a reply, {excerpt(reply.strip(), 60)}, but nothing that it answers. Connect the prompt that "
                "the model was given to the input previous."
            )
        return asked
    answer = " ".join(reply.split())
    return previous + Prompt((f" {answer}\n" if answer else "\n",)) + asked


def arrange(
    items: Sequence[str | Tensor], tokenize: Callable[[str], list[int]], start: int
) -> list[list[int] | Tensor]:
    """Items as the model reads them: texts as token ids, pictures as they are.

    The start token stands before the first text, wherever that is, and before no other.
    """
    found: list[list[int] | Tensor] = []
    begun = False
    for item in items:
        if not isinstance(item, str):
            found.append(item)
            continue
        ids = tokenize(item)
        found.append(ids if begun else [start, *ids])
        begun = True
    return found


def fit_context(
    pieces: Sequence[list[int] | Tensor], visual_tokens: int, room: int, start: int
) -> list[list[int] | Tensor]:
    """The latest pieces that fit: of the oldest text the beginning is left out, of pictures all or nothing.

    Args:
        pieces: from `arrange`.
        visual_tokens: positions that a picture takes.
        room: positions that there are, at least one.
        start: id of the start token, which begins the oldest text that is left.
    """
    kept: list[list[int] | Tensor] = []
    left = room - 1  # for the start token
    for piece in reversed(pieces):
        size = len(without_start(piece, start)) if isinstance(piece, list) else visual_tokens
        if size <= left:
            kept.insert(0, without_start(piece, start) if isinstance(piece, list) else piece)
            left -= size
            continue
        if isinstance(piece, list) and left:
            kept.insert(0, piece[-left:])
        break
    first = next((number for number, piece in enumerate(kept) if isinstance(piece, list)), None)
    if first is not None:
        kept[first] = [start, *cast(list[int], kept[first])]
    return kept


def without_start(ids: list[int], start: int) -> list[int]:
    """The ids without a start token in front."""
    return ids[1:] if ids[:1] == [start] else ids


def count_positions(pieces: Sequence[list[int] | Tensor], visual_tokens: int) -> int:
    """How many positions the pieces take."""
    return sum(len(piece) if isinstance(piece, list) else visual_tokens for piece in pieces)


def _require_picture(number: int, picture: Tensor) -> None:
    try:
        check_photos(picture)
    except SubjectError as error:
        raise type(error)(f"The picture image{number} cannot be used: {error}") from error
    if len(picture) > 1:
        raise SubjectError(
            f"The input image{number} has {len(picture)} pictures, but a place takes one. "
            "Choose one, or connect each to an input of its own."
        )
