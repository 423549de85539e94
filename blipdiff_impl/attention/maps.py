"""Which pixels each token of a prompt looks at (paper Figure 7): mean cross-attention probabilities as maps.

Knows nothing of a host. Only the chosen columns are kept, summed over heads, layers and steps: memory grows with the
number of chosen maps and their size, not with the number of layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SubjectError, excerpt, first_few
from ..prompts.rows import SUBJECT_MARKER, tidied
from .probabilities import column_means

SUBJECT, EACH_VECTOR, EACH_WORD, CHOSEN_WORDS = "subject", "each vector", "each word", "chosen words"
TOKEN_CHOICES = (SUBJECT, EACH_VECTOR, EACH_WORD, CHOSEN_WORDS)

ALL_LAYERS, ONE_BLOCK = "all", "one block"
LEVELS = ("level 1", "level 2", "level 3", "level 4")
LAYER_CHOICES = (ALL_LAYERS, *LEVELS, ONE_BLOCK)

Named = tuple[tuple[str, tuple[int, ...]], ...]  # what is shown, and its columns


@dataclass(frozen=True)
class PromptColumns:
    """What stands in which columns of an encoded prompt.

    Attributes:
        tokens: columns in all.
        words: each word once, in order, with all its columns.
        subjects: each subject's category with the columns of its vectors.
    """

    tokens: int
    words: Named
    subjects: Named

    def choose(self, tokens: str, words: str = "") -> Named:
        """The maps to make.

        Args:
            tokens: one of `TOKEN_CHOICES`.
            words: for "chosen words", separated by commas or spaces; "subject" stands for the vectors.

        Raises:
            SubjectError: a word that the prompt does not have, no words, or no subject in the prompt.
        """
        if tokens == EACH_WORD:
            return self._each_word()
        if tokens == CHOSEN_WORDS:
            return self._chosen(words)
        if not self.subjects:
            raise SubjectError(f"This prompt has no subject in it, only words: {self._listed()}. Choose 'each word'.")
        if tokens == SUBJECT:
            return self._named_subjects()
        return tuple(
            (f"{name} {number}", (column,))
            for name, columns in self._named_subjects()
            for number, column in enumerate(columns, 1)
        )

    def _each_word(self) -> Named:
        words = tuple((word, columns) for word, columns in self.words if any(map(str.isalnum, word)))
        if not words:
            raise SubjectError(
                f"This prompt has no words in it, only {self._listed() or 'nothing'}. Choose 'subject' or write words."
            )
        return words

    def _chosen(self, words: str) -> Named:
        wanted = chosen_words(words, self._listed())
        known = {**dict(self._named_subjects()), **dict(self.words)}
        if missing := [word for word in wanted if word not in known]:
            raise SubjectError(f"The prompt has no {first_few(map(repr, missing))}. Its words are: {self._listed()}.")
        return tuple((word, known[word]) for word in wanted)

    def _named_subjects(self) -> Named:
        """One is called "subject", several by their categories."""
        if len(self.subjects) == 1:
            return (("subject", self.subjects[0][1]),)
        return tuple((f"subject {number} ({name})", cols) for number, (name, cols) in enumerate(self.subjects, 1))

    def _listed(self) -> str:
        return first_few(name for name, _ in (*self._named_subjects(), *self.words))


def chosen_words(words: str, known: str = "the prompt's words, separated by commas") -> list[str]:
    """Words in small letters, each once, of a text in which they are separated by commas or spaces.

    Args:
        known: what can be chosen, for the message.

    Raises:
        SubjectError: there are none.
    """
    chosen = list(dict.fromkeys(tidied(words).lower().replace(SUBJECT_MARKER, "subject").replace(",", " ").split()))
    if not chosen:
        raise SubjectError(f"No words are chosen. Write some of: {known}.")
    return chosen


@dataclass
class MapRecord:
    """Sums of the maps of one run.

    Attributes:
        chosen: what is recorded.
    """

    chosen: Named
    _sums: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # by grid: [B, maps, h, w]
    _counts: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, q: Tensor, k: Tensor, heads: int, grid: tuple[int, int], period: int, bias: Tensor | None = None):
        """Record one layer's attention.

        Args:
            q: `[B, h * w, heads * dim]`.
            k: `[B, keys, heads * dim]`.
            period: keys after which the prompt repeats, at least its own columns; a host repeats the shorter of two.
            bias: what is added to the scores, `[B, h * w, keys]`.
        """
        found = column_means(q, k, heads, [columns for _, columns in self.chosen], period, bias).unflatten(-1, grid)
        self._sums[grid] = found + self._sums[grid] if grid in self._sums else found
        self._counts[grid] = self._counts.get(grid, 0) + 1

    @property
    def is_empty(self) -> bool:
        """Whether nothing was recorded."""
        return not self._sums

    def apart(self, pictures: int) -> list[MapRecord]:
        """A record for each picture, in the computer's own memory."""
        return [
            MapRecord(
                self.chosen,
                {grid: total[i : i + 1].cpu().clone() for grid, total in self._sums.items()},
                dict(self._counts),
            )
            for i in range(pictures)
        ]

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return sum(total.nbytes for total in self._sums.values())

    def maps(self, size: tuple[int, int]) -> Tensor:
        """Mean probability over heads, layers and steps, bilinearly enlarged: `[B, maps, height, width]` in 0..1."""
        count = sum(self._counts.values())
        enlarged = (F.interpolate(total, size=size, mode="bilinear") for total in self._sums.values())
        return reduce(torch.add, enlarged) / count


def stretched(maps: Tensor) -> Tensor:
    """Each map `[..., H, W]` from its least to its greatest value, in 0..1; a level one becomes 0."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)


def in_range(step: int, steps: int, start: float, end: float) -> bool:
    """Whether a step lies in a part of the run (0 is its start, 1 its end), wholly or in part."""
    return step < end * steps and step + 1 > start * steps


def check_range(start: float, end: float) -> None:
    """Refuse a part of the run without a step.

    Raises:
        SubjectError: nothing lies between start and end.
    """
    if not 0 <= start < end <= 1:
        raise SubjectError(f"start = {start} and end = {end} leave no steps to record; choose 0 <= start < end <= 1.")


def choose_blocks(blocks: dict[tuple[str, int], int], layers: str, block: str) -> list[tuple[str, int]]:
    """Places of the layers to record.

    Args:
        blocks: the model's layers, each with how often the latent is halved there.
        layers: "all", "level 1" (the finest that the model has) and so on, or "one block".
        block: for "one block", for example "output 5".

    Raises:
        SubjectError: the model has no such level or block.
    """
    if layers == ALL_LAYERS:
        return list(blocks)
    if layers == ONE_BLOCK:
        named = {" ".join(map(str, place)): place for place in blocks}
        if (wanted := " ".join(block.lower().split())) not in named:
            raise SubjectError(f"This MODEL has no attention in block {excerpt(block)}; it has {', '.join(named)}.")
        return [named[wanted]]
    levels = sorted(set(blocks.values()))
    number = LEVELS.index(layers)
    if number >= len(levels):
        raise SubjectError(f"layers = {layers!r}, but this MODEL has attention at {len(levels)} levels only.")
    return [place for place, downsamples in blocks.items() if downsamples == levels[number]]


def label_columns(pieces: Sequence[str | None]) -> Named:
    """Words from the text encoder's pieces, one for each column (None where no word stands); a piece that ends a word
    ends in `</w>`."""
    words: dict[str, tuple[int, ...]] = {}
    word, columns = "", ()
    for column, piece in enumerate(pieces):
        if piece is None:
            word, columns = "", ()
            continue
        word, columns = word + piece.removesuffix("</w>"), (*columns, column)
        if piece.endswith("</w>"):
            words[word] = words.get(word, ()) + columns
            word, columns = "", ()
    return tuple(words.items())
