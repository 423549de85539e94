"""Where the subject stands in a prompt: templates as text, and rows of tokens with the vectors in place.

Knows nothing of a tokenizer: callers turn `PromptText` into tokens, `arrange` turns tokens into rows. Both sides (the
host's CLIP and the plain one) go through here, so that a prompt means the same everywhere.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import SubjectError
from ..settings import require_one_of
from .tokenizers import normalise_category

SUBJECT_MARKER = "[subject]"
_MARKER = re.compile(r"\[\s*subject\s*\]", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"\[[^\[\]]{1,40}\]|\{[^{}]{1,40}\}|<[^<>]{1,40}>")
# About 6000 words. Attention takes memory for every word at every place of the picture.
MOST_LETTERS = 32_000
# A private-use character that stands for the subject while text becomes tokens; no tokenizer merges it with a word.
SENTINEL = "\ue5b1"

TEMPLATES = ("released", "paper")
ROW = 77  # positions of the text encoder
ROW_POSITIONS = ROW - 2  # without start and end

# One position of a row: a token id or a vector `[W]`, and its weight.
Token = tuple[int | Tensor, float]


@dataclass(frozen=True)
class PromptText:
    """A prompt as text, with `SENTINEL` where the subject goes.

    Attributes:
        first: the phrase with the subject.
        repeat: what one repetition adds.
        repetitions: how often `repeat` follows `first`.
        plain: the phrase once, without the subject.
    """

    first: str
    repeat: str
    repetitions: int
    plain: str


def tidied(text: str) -> str:
    """A text of the user with single spaces, and every marker, such as `[Subject]` or `[ subject ]`, as
    `SUBJECT_MARKER`.

    Raises:
        SubjectError: more than `MOST_LETTERS`.
    """
    check_length("The prompt", text)
    return _MARKER.sub(SUBJECT_MARKER, " ".join(text.split()))


def lookalikes(text: str, names: Iterable[str], brackets: str = "[{<") -> list[str]:
    """Words in brackets that are nearly one of `names`: somebody meant a marker, and they are read as words.

    Args:
        names: in small letters.
        brackets: which opening ones count.
    """
    found = [match[0] for match in _IN_BRACKETS.finditer(text) if match[0][0] in brackets]
    alike = [part for part in found if difflib.get_close_matches(part[1:-1].strip().lower(), list(names))]
    return [part for part in dict.fromkeys(alike) if not _MARKER.fullmatch(part)]


def check_length(name: str, text: str) -> None:
    """Raises:
    SubjectError: more than `MOST_LETTERS`; begins with `name`.
    """
    if len(text) > MOST_LETTERS:
        raise SubjectError(f"{name} has {len(text)} letters, and at most {MOST_LETTERS} are possible. Shorten it.")


def compose(
    prompt: str, category: str, template: str = "released", prompt_strength: float = 1.0, prompt_reps: int = 20
) -> PromptText:
    """Put prompt, category and subject together.

    "released" gives `a [subject] {category} {prompt}` and repeats the phrase without the subject, as the release does;
    "paper" gives `{prompt}, the {category} is [subject]`, once. A prompt that holds `[subject]` is used as it is.

    Args:
        prompt: what the picture shows, for example "swimming underwater"; empty is the subject alone, as in the
            release.
        category: what the subject is in this picture; need not be what it was encoded as.
        prompt_strength: scales the repetitions; at least one phrase always stays.
        prompt_reps: phrases in all, as far as they fit.

    Raises:
        SubjectError: empty category, unknown template, more than one marker.
    """
    text = tidied(prompt)
    require_one_of("template", template, TEMPLATES)
    if (markers := text.count(SUBJECT_MARKER)) > 1:
        raise SubjectError(f"The prompt holds {SUBJECT_MARKER} {markers} times; one subject has one place.")
    if markers:
        plain = " ".join(text.replace(SUBJECT_MARKER, " ").split())
        return PromptText(text.replace(SUBJECT_MARKER, f" {SENTINEL} "), "", 0, plain)
    word = normalise_category(category)
    if template == "paper":
        scene = f"{text}, " if text else ""
        return PromptText(f"{scene}the {word} is {SENTINEL}", "", 0, f"{scene}the {word}")
    phrases = max(1, int(prompt_strength * prompt_reps))
    scene = f"{word} {text}" if text else word
    return PromptText(f"a {SENTINEL} {scene}", f", a {scene}", phrases - 1, f"a {scene}")


def arrange(
    first: Sequence[Token],
    repeat: Sequence[Token],
    repetitions: int,
    sentinel_ids: Sequence[int | Tensor],
    vectors: Tensor,
) -> list[list[Token]]:
    """Rows of at most 75 positions with the subject's vectors where the sentinel stood.

    Repetitions fill the rest of the first row and are cut there: with 16 vectors 59 tokens are left, which is the
    released truncation to 61 ids. A phrase too long by itself goes on in further rows; the subject is never cut in two.

    Args:
        first: tokens of `PromptText.first`, without start, end or padding.
        repeat: tokens of `PromptText.repeat`.
        sentinel_ids: the ids that the same tokenizer makes of `SENTINEL` alone.
        vectors: `[tokens, W]`; each takes one position and the sentinel's weight.

    Raises:
        SubjectError: the sentinel is not in `first`.
    """
    place = next(find_tokens([item for item, _ in first], sentinel_ids), None)
    if place is None:
        raise SubjectError(
            "The subject's place was lost when the prompt became tokens; keep it out of `embedding:` names."
        )
    weight = first[place][1]
    before, after = first[:place], first[place + len(sentinel_ids) :]
    subject: list[Token] = [(vector, weight) for vector in vectors]
    rows = _cut(before)
    if len(rows[-1]) + len(subject) > ROW_POSITIONS:
        rows.append([])
    rows[-1] += subject
    room = ROW_POSITIONS - len(rows[-1])
    rows[-1] += after[:room]
    if len(after) > room:
        return rows + _cut(after[room:])
    if len(rows) == 1:
        rows[0] += (list(repeat) * repetitions)[: ROW_POSITIONS - len(rows[0])]
    return rows


def _same_id(one: int | Tensor, other: int | Tensor) -> bool:
    return isinstance(one, int) and isinstance(other, int) and one == other


def find_tokens(
    items: Sequence[int | Tensor],
    sought: Sequence[int | Tensor],
    first: int = 0,
    same: Callable[[int | Tensor, int | Tensor], bool] = _same_id,
) -> Iterator[int]:
    """Every place in `items`, from `first` on, where the items of `sought` follow each other; places may overlap.

    Args:
        sought: nothing is found where it is empty.
        same: whether two items are the same; by default a vector is like nothing.
    """
    restart = _restarts(sought, same)
    matched = 0
    for place in range(first, len(items) if sought else first):
        while matched and (matched == len(sought) or not same(sought[matched], items[place])):
            matched = restart[matched]
        matched += same(sought[matched], items[place])
        if matched == len(sought):
            yield place + 1 - matched


def _restarts(sought: Sequence[int | Tensor], same: Callable[[int | Tensor, int | Tensor], bool]) -> list[int]:
    """For each number of items that matched, how many still do one place on (Knuth, Morris and Pratt)."""
    restart, length = [0, 0], 0
    for item in sought[1:]:
        while length and not same(sought[length], item):
            length = restart[length]
        length += same(sought[length], item)
        restart.append(length)
    return restart


def _cut(tokens: Sequence[Token]) -> list[list[Token]]:
    """Tokens in rows as long as a row may be; one empty row where there are none."""
    return [list(tokens[start : start + ROW_POSITIONS]) for start in range(0, max(1, len(tokens)), ROW_POSITIONS)]
