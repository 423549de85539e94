"""The two prompts of an edit, encoded by the host's CLIP as a batch, and what is known of their columns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .....blipdiff_impl.blip_diffusion.editing.control import Columns
from .....blipdiff_impl.blip_diffusion.subject import Subject
from .....blipdiff_impl.errors import SubjectError, excerpt
from .....blipdiff_impl.prompts.alignment import align, find_words
from .....blipdiff_impl.prompts.rows import SUBJECT_MARKER, PromptText
from .....blipdiff_impl.prompts.tokenizers import CLIP_END
from .....blipdiff_impl.prompts.words import EditTexts, listed, missing_word, parse_weights
from ...prompt_rows import Rows, batched, content, lengthen, require_stable_diffusion
from ...token_columns import vector_columns
from ..prompt import require_fitting, subject_rows

EDIT_KEY = "blipdiffusion_edit"


def encode_edit(
    clip, subject: Subject | None, texts: EditTexts, negative: str, blend_words: str, reweight: str
) -> tuple[list, list]:
    """Positive and negative CONDITIONING.

    The positive one is a batch of pairs, source and edit: one pair, or one for each subject of a batch. It carries its
    `Columns` for the patch on the MODEL.

    Raises:
        SubjectError: a word that is not in the prompts, or a CLIP that does not fit.
    """
    if subject is None:
        require_stable_diffusion(clip)
    else:
        require_fitting(clip, subject)
    source = clip.tokenize(texts.source)["l"]
    vectors = [None] if subject is None else list(subject.embeddings)
    targets = [_target_rows(clip, texts.target, each) for each in vectors]
    count = max(len(source), len(targets[0]))
    source, targets = lengthen(clip, source, count), [lengthen(clip, rows, count) for rows in targets]
    columns = _columns(clip, texts, source, targets[0], vectors[0], blend_words, reweight)
    pairs = [rows for target in targets for rows in (source, target)]
    encoded = batched([clip.encode_from_tokens_scheduled({"l": rows}) for rows in pairs])
    positive = [[cond, {**options, EDIT_KEY: columns}] for cond, options in encoded]
    return positive, clip.encode_from_tokens_scheduled(clip.tokenize(negative))


def _target_rows(clip, text: str, vectors: Tensor | None) -> Rows:
    if vectors is None:
        return clip.tokenize(text)["l"]
    return subject_rows(clip, vectors, PromptText(text, "", 0, ""))


def _columns(
    clip, texts: EditTexts, source: Rows, target: Rows, vectors: Tensor | None, blend_words: str, reweight: str
) -> Columns:
    symbol = _Symbols()
    ours, theirs = ([symbol(item) for row in rows for item, *_ in row] for rows in (source, target))
    of_subject = [] if vectors is None else list(vector_columns(target, vectors))

    def in_target(word: str) -> list[int]:
        return of_subject if word == SUBJECT_MARKER else find_words(theirs, _ids(clip, word), CLIP_END)

    source_words = find_words(ours, _ids(clip, texts.source_word), CLIP_END)
    edit_words = of_subject + in_target(texts.target_word)
    for word, places, text in (
        (texts.source_word, source_words, texts.source),
        (texts.target_word, edit_words, texts.target),
    ):
        if not places:
            raise missing_word(word, text)
    for word in listed(blend_words):
        here, there = find_words(ours, _ids(clip, word), CLIP_END), in_target(word)
        if not here and not there:
            raise missing_word(word, f"{texts.source} {texts.target}")
        source_words, edit_words = source_words + here, edit_words + there
    weights = _weights(parse_weights(reweight), in_target, len(theirs), texts.target)
    source_words, edit_words = sorted(set(source_words)), sorted(set(edit_words))
    return Columns(align(ours, theirs, CLIP_END), tuple(source_words), tuple(edit_words), weights)


def _weights(chosen: dict[str, float], find: Callable[[str], list[int]], count: int, text: str) -> Tensor | None:
    if not chosen:
        return None
    weights = torch.ones(count)
    for word, weight in chosen.items():
        places = find(word)
        if not places:
            raise missing_word(word, text)
        weights[places] = weight
    return weights


def _ids(clip, word: str) -> list[int]:
    items = [item for item, _ in content(clip, word)]
    ids = [item for item in items if isinstance(item, int)]
    if len(ids) < len(items):
        raise SubjectError(f"{excerpt(word)} names an embedding; name a word of the prompt.")
    return ids


class _Symbols:
    """A number for each position's content: token ids as they are, equal vectors as equal negative numbers."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def __call__(self, item: int | Tensor) -> int:
        if not isinstance(item, Tensor):
            return int(item)
        return self._seen.setdefault(item.detach().float().cpu().numpy().tobytes(), -1 - len(self._seen))
