"""The errors a user of the pack can fix; every message says what was wrong, with the value, and what to do."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

_LONGEST_NAME = 100
_LETTERS = 200
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _LETTERS


class SubjectError(ValueError):
    """An input that cannot be used: a picture, a category, a prompt, a subject that does not fit a model."""


class OutOfMemory(SubjectError):
    """More memory was needed than there is; the message names what fits."""


class CheckpointError(SubjectError):
    """A model file or folder that is missing, unreadable, incomplete or of another kind."""


class NameTaken(CheckpointError):
    """A file of the name is there already, and may not be overwritten."""


def excerpt(text: str, most: int = 100) -> str:
    """The text in quotes, as a message shows it: of a long one the beginning and the number of letters."""
    return repr(text) if len(text) <= most else f"{text[:most]!r} ... ({len(text)} letters)"


def first_few(names: Iterable[str], most: int = 8, separator: str = ", ") -> str:
    """Names as a message lists them: of many the first ones and how many more there are, of long ones the beginning."""
    names = list(names)
    few = separator.join(one_line(name, _LONGEST_NAME) for name in names[:most])
    return few + (f" and {len(names) - most} more" if len(names) > most else "")


def one_line(text: object, letters: int = _LETTERS) -> str:
    """A text, or what an error says, in one line of bounded length."""
    text = " ".join(str(text)[: 4 * letters].split())
    return text if len(text) <= letters else f"{text[: letters - 3]}..."


def shown(value: object, letters: int = _LETTERS) -> str:
    """A value as Python writes it, of bounded length; of what is long or deep only the outside is looked at."""
    return one_line(_SHORT.repr(value), letters)
