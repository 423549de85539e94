"""Texts of an edit, and the words that are named beside them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import SubjectError, excerpt, first_few
from .rows import SENTINEL, SUBJECT_MARKER, tidied
from .tokenizers import normalise_category


@dataclass(frozen=True)
class EditTexts:
    """Both prompts of an edit, as text.

    Attributes:
        source: the prompt of the picture as it is.
        target: the prompt of the edit, `SENTINEL` where the subject's vectors go, if there is a subject.
        source_word, target_word: the thing in each.
    """

    source: str
    target: str
    source_word: str
    target_word: str


def compose_edit(
    source_category: str, target_category: str, prompt: str, target_prompt: str = "", with_subject: bool = True
) -> EditTexts:
    """`a {source} {prompt}` and `a [vectors] {target} {prompt}`; a prompt with `[subject]` is used as it stands, the
    thing of each in the marker's place. Nothing is repeated, as in the release's editing.

    Args:
        target_prompt: another text for the edit; empty is the same.

    Raises:
        SubjectError: an empty category, or several markers.
    """
    source_word, target_word = normalise_category(source_category), normalise_category(target_category)
    placed = f"{SENTINEL} {target_word}" if with_subject else target_word
    source = _phrase(prompt, source_word)
    target = _phrase(target_prompt if target_prompt.strip() else prompt, placed)
    return EditTexts(source, target, source_word, target_word)


def _phrase(prompt: str, thing: str) -> str:
    text = tidied(prompt)
    if (markers := text.count(SUBJECT_MARKER)) > 1:
        raise SubjectError(f"The prompt holds {SUBJECT_MARKER} {markers} times; one thing is edited at a time.")
    if markers:
        return " ".join(text.replace(SUBJECT_MARKER, f" {thing} ").split())
    return f"a {thing} {text}".strip()


def listed(text: str) -> list[str]:
    """Words or phrases between commas, markers as `SUBJECT_MARKER`."""
    return [part.strip() for part in tidied(text).split(",") if part.strip()]


def parse_weights(text: str) -> dict[str, float]:
    """`dog: 1.5, [subject]: 2` as words and weights.

    Raises:
        SubjectError: a part that is not `word: number`, or a number that is not 0 to 20.
    """
    weights = {}
    for part in listed(text):
        word, colon, number = part.rpartition(":")
        if not colon or not word.strip() or not re.fullmatch(r"\s*(\d+|\d*\.\d+)\s*", number):
            raise SubjectError(f"reweight holds {excerpt(part)}. Write words with weights: 'snow: 1.5, [subject]: 2'.")
        value = float(number)
        if not (math.isfinite(value) and value <= 20):
            raise SubjectError(f"The weight {value:g} of {excerpt(word.strip())} is too large; 0 to 20 are possible.")
        weights[word.strip()] = value
    return weights


def check_edit_words(texts: Iterable[str], words: Iterable[str]) -> None:
    """What can be said of words of an edit without a tokenizer: whether their letters are in its texts at all.

    Raises:
        SubjectError: a word that no tokenizer will find there.
    """
    texts = list(texts)
    letters = _letters(" ".join(texts))
    for word in words:
        if word != SUBJECT_MARKER and _letters(word) not in letters:
            raise missing_word(word, " ".join(dict.fromkeys(texts)))


def _letters(text: str) -> str:
    """Small letters and digits in a row, without the weights of `(words:1.2)`."""
    text = re.sub(r":\s*[\d.]+\s*\)", "", unicodedata.normalize("NFKC", text).lower())
    return "".join(letter for letter in text if letter.isalnum())


def missing_word(word: str, text: str) -> SubjectError:
    """What to say when a word is not in a prompt."""
    there = re.findall(r"[^\s,.;:!?()]+", text.replace(SENTINEL, SUBJECT_MARKER))
    return SubjectError(f"{excerpt(word)} is not in the prompt. Its words are: {first_few(dict.fromkeys(there), 30)}.")
