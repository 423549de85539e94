"""Where the subject stands in a prompt: templates as text, and rows of tokens with the vectors in place.

Knows nothing of a tokenizer: callers turn `PromptText` into tokens, `arrange` turns tokens into rows. Both sides (the
host's CLIP and the plain one) go through here, so that a prompt means the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .errors import SubjectError
from .tokenizers import normalise_category

SUBJECT_MARKER = "[subject]"
# A private-use character that stands for the subject while text becomes tokens; no tokenizer merges it with a word.
SENTINEL = "\ue5b1"

TEMPLATES = ("released", "paper")
ROW_POSITIONS = 75  # of the text encoder's 77 positions, without start and end

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


def compose(
    prompt: str, category: str, template: str = "released", prompt_strength: float = 1.0, prompt_reps: int = 20
) -> PromptText:
    """Put prompt, category and subject together.

    "released" gives `a [subject] {category} {prompt}` and repeats the phrase without the subject, as the release does;
    "paper" gives `{prompt}, the {category} is [subject]`, once. A prompt that holds `[subject]` is used as it is.

    Args:
        prompt: what the picture shows, for example "swimming underwater".
        category: what the subject is in this picture; need not be what it was encoded as.
        prompt_strength: scales the repetitions; at least one phrase always stays.
        prompt_reps: phrases in all, as far as they fit.

    Raises:
        SubjectError: empty prompt or category, unknown template, more than one marker.
    """
    text = " ".join(prompt.split())
    if not text:
        raise SubjectError(
            f"The prompt is empty (given: {prompt!r}). Say what the picture should show, for example 'on a beach'."
        )
    if template not in TEMPLATES:
        raise SubjectError(f"template = {template!r} is unknown; choose one of {', '.join(TEMPLATES)}.")
    if (markers := text.count(SUBJECT_MARKER)) > 1:
        raise SubjectError(f"The prompt holds {SUBJECT_MARKER} {markers} times; one subject has one place.")
    if markers:
        plain = " ".join(text.replace(SUBJECT_MARKER, " ").split())
        return PromptText(text.replace(SUBJECT_MARKER, f" {SENTINEL} "), "", 0, plain)
    word = normalise_category(category)
    if template == "paper":
        return PromptText(f"{text}, the {word} is {SENTINEL}", "", 0, f"{text}, the {word}")
    phrases = max(1, int(prompt_strength * prompt_reps))
    return PromptText(f"a {SENTINEL} {word} {text}", f", a {word} {text}", phrases - 1, f"a {word} {text}")


def arrange(
    first: list[Token], repeat: list[Token], repetitions: int, sentinel_ids: list[int], vectors: Tensor
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
    place = _find(sentinel_ids, [item for item, _ in first])
    weight = first[place][1]
    before, after = first[:place], first[place + len(sentinel_ids) :]
    subject = [(vector, weight) for vector in vectors]
    rows = _cut(before)
    if len(rows[-1]) + len(subject) > ROW_POSITIONS:
        rows.append([])
    rows[-1] += subject
    room = ROW_POSITIONS - len(rows[-1])
    rows[-1] += after[:room]
    if len(after) > room:
        return rows + _cut(after[room:])
    if len(rows) == 1:
        rows[0] += (repeat * repetitions)[: ROW_POSITIONS - len(rows[0])]
    return rows


def _cut(tokens: list[Token]) -> list[list[Token]]:
    """Tokens in rows as long as a row may be; one empty row where there are none."""
    return [tokens[start : start + ROW_POSITIONS] for start in range(0, max(1, len(tokens)), ROW_POSITIONS)]


def _find(sentinel_ids: list[int], items: list) -> int:
    for start in range(len(items) - len(sentinel_ids) + 1):
        window = items[start : start + len(sentinel_ids)]
        if all(isinstance(item, int) for item in window) and window == sentinel_ids:
            return start
    raise SubjectError("The subject's place was lost when the prompt became tokens; keep it out of `embedding:` names.")
