"""Phrases: what a subject is called, and which columns of the prompt say so (docs/method.md 13.7)."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import SubjectError, excerpt, shown
from ..prompts.alignment import find_runs

_LONGEST = 200  # letters


def checked_phrase(phrase: object) -> str:
    """The phrase on one line, with single spaces.

    Raises:
        SubjectError: no text, nothing in it, or a text too long for a name.
    """
    text = " ".join(phrase.split()) if isinstance(phrase, str) else ""
    if not text:
        raise SubjectError(
            f"The phrase of a subject is empty (given: {shown(phrase)}). Name it as the prompt does, such as 'dog'."
        )
    if len(text) > _LONGEST:
        raise SubjectError(
            f"The phrase {excerpt(text, 40)} is too long to name a subject; at most {_LONGEST} letters are "
            "possible. Put the description into the prompt, and the noun here."
        )
    return text


def phrase_columns(
    prompt: Sequence[int], phrases: Sequence[tuple[str, Sequence[int]]], end: int
) -> tuple[tuple[int, ...], ...]:
    """The columns of each subject's phrase in the prompt.

    Phrases are compared by tokens, so a full stop or a hyphen beside a word does not hide it. Longer phrases choose
    first, so "dog" does not take that of "hot dog"; of two subjects with one phrase, the second has the second place.

    Args:
        prompt: token ids, chunks of 77 one after the other, each with start, end and padding.
        phrases: of each subject its phrase and the ids of its tokens, without start and end.
        end: the id that closes a chunk and pads it.

    Raises:
        SubjectError: a phrase is in the prompt less often than subjects have it.
    """
    taken: set[int] = set()
    found: dict[int, tuple[int, ...]] = {}
    for subject in sorted(range(len(phrases)), key=lambda number: -len(phrases[number][1])):
        phrase, tokens = phrases[subject]
        free = next((run for run in find_runs(prompt, tokens, end) if taken.isdisjoint(run)), None)
        if free is None:
            raise SubjectError(_absent(phrase, sum(1 for _ in find_runs(prompt, tokens, end))))
        taken.update(free)
        found[subject] = free
    return tuple(found[subject] for subject in range(len(phrases)))


def _absent(phrase: str, times: int) -> str:
    name = excerpt(phrase, 60)
    if times:
        there = f"{name} stands in the prompt {times} {'time' if times == 1 else 'times'}, and other subjects have that"
    else:
        there = f"{name} is not in the prompt"
    return (
        f"{there}. Auto layout looks for each subject's phrase there, and one without a place would vanish from the "
        "picture. Write the phrase into the prompt, once for each subject of that name, or turn auto layout off."
    )
