"""Markers in a prompt: `{dog} chasing {ball} on the beach`.

A marker names a subject by its category, or, where two share one, by the letter of its socket: `{a}`, `{b}` ...
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ...errors import SubjectError, excerpt, first_few
from ...prompts.rows import SENTINEL, check_length
from ...prompts.tokenizers import normalise_category

SOCKETS = ("a", "b", "c", "d")
_MARKER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Scene:
    """A prompt cut at its markers.

    Attributes:
        texts: what stands before, between and after the markers; one more than there are markers.
        sockets: the subject of each marker, by its socket's letter, in the order of the prompt.
        words: the category word of each subject, by letter.
    """

    texts: tuple[str, ...]
    sockets: tuple[str, ...]
    words: Mapping[str, str]

    def only(self, sockets: Collection[str]) -> Scene:
        """The scene without the other subjects; of their markers nothing is left."""
        texts, kept = [self.texts[0]], []
        for socket, following in zip(self.sockets, self.texts[1:], strict=True):
            if socket in sockets:
                kept.append(socket)
                texts.append(following)
            else:
                texts[-1] = f"{texts[-1]} {following}"
        return replace(self, texts=tuple(texts), sockets=tuple(kept))

    def text(self) -> str:
        """The prompt with `SENTINEL` and the category word in place of each marker."""
        filled = self.texts[0]
        for socket, following in zip(self.sockets, self.texts[1:], strict=True):
            filled += f" {SENTINEL} {self.words[socket]}{following}"
        return " ".join(filled.split())


def parse(prompt: str, categories: Mapping[str, str]) -> Scene:
    """Find the subjects' places.

    Args:
        categories: what each connected subject is, by the letter of its socket.

    Raises:
        SubjectError: an empty prompt, a marker without subject, a subject without marker or with two, a marker that
            means two subjects.
    """
    words = {socket: normalise_category(category) for socket, category in categories.items()}
    if not prompt.strip():
        raise SubjectError(f"The prompt is empty (given: {excerpt(prompt)}). Write, for example, {_example(words)!r}.")
    check_length("The prompt", prompt)
    # split() gives text, marker, text, marker, ..., text
    texts, names = _MARKER.split(prompt)[::2], _MARKER.split(prompt)[1::2]
    sockets = tuple(_socket(name, words) for name in names)
    for socket, word in words.items():
        if (times := sockets.count(socket)) != 1:
            raise SubjectError(
                f"subject_{socket} ({word}) stands in the prompt {times} times; write its marker, {{{word}}} or "
                f"{{{socket}}}, once. The prompt is {excerpt(prompt)}."
            )
    return Scene(tuple(texts), sockets, words)


def check_markers(prompt: str, connected: Collection[str]) -> None:
    """What can be said of a prompt before it is known what the subjects are.

    Args:
        connected: letters of the sockets with a subject.

    Raises:
        SubjectError: an empty prompt, the letter of a socket without subject or one written twice, more or fewer
            markers than subjects.
    """
    if not prompt.strip():
        example = _example(dict.fromkeys(connected, ""))
        raise SubjectError(f"The prompt is empty (given: {excerpt(prompt)}). Write, for example, {example!r}.")
    check_length("The prompt", prompt)
    names = [" ".join(name.lower().split()) for name in _MARKER.findall(prompt)]
    there = ", ".join(f"{{{socket}}}" for socket in connected)
    for name in dict.fromkeys(names):
        if name in SOCKETS and name not in connected:
            raise SubjectError(
                f"The prompt has the marker {{{name}}}, but subject_{name} is not connected. Connect it, or take the "
                f"marker out. There are: {there}."
            )
        if name in SOCKETS and (times := names.count(name)) > 1:
            raise SubjectError(f"The prompt has the marker {{{name}}} {times} times. Write it once.")
    if len(names) != len(connected):
        raise SubjectError(
            f"The prompt has {len(names)} markers for {len(connected)} subjects: {excerpt(prompt)}. Write one marker "
            f"for each, its category in braces or its letter: {there}."
        )


def _socket(name: str, words: Mapping[str, str]) -> str:
    """The letter of the subject that a marker means."""
    wanted = " ".join(name.lower().split())
    if wanted in words:
        return wanted
    meant = [socket for socket, word in words.items() if word == wanted]
    if len(meant) == 1:
        return meant[0]
    if meant:
        letters = " and ".join(f"{{{socket}}}" for socket in meant)
        raise SubjectError(
            f"{{{first_few([name])}}} could be any of the subjects {letters}; write these letters instead."
        )
    connected = ", ".join(f"{{{socket}}} or {{{word}}}" for socket, word in words.items())
    raise SubjectError(
        f"The prompt has the marker {{{first_few([name])}}}, but no such subject is connected. There are: "
        f"{connected}. Other braces cannot stand in this prompt."
    )


def _example(words: Mapping[str, str]) -> str:
    return " and ".join(f"a {{{socket}}}" for socket in words) + " on the beach"
