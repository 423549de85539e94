"""Word by word through the language model, until a picture is due (docs/method.md 14.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SubjectError
from .decoding_settings import DRAW, TEXT, DecodingSettings
from .language_model import LanguageModel, new_cache

OnToken = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Decoded:
    """A reply.

    Attributes:
        ids: of all its tokens; a picture is [IMG0] to [IMG7]. The new line or end of text that ended it is left out.
        states: the last states at the eight tokens of each picture, `[pictures, 8, W]`; no row where there is none.
    """

    ids: tuple[int, ...]
    states: Tensor


@torch.no_grad()
def decode(
    model: LanguageModel,
    prompt: Tensor,
    settings: DecodingSettings,
    image_tokens: Sequence[int],
    on_token: OnToken = lambda done, total: None,
) -> Decoded:
    """The model's reply to a prompt.

    The states of a picture are read as soon as it is chosen. A reply ends with the end of text, with a new line (but
    for one at its beginning), with its last picture, or after the steps that are allowed.

    Args:
        prompt: embeddings `[1, T, W]`.
        image_tokens: ids of [IMG0] to [IMG7].
        on_token: called after each step.

    Raises:
        SubjectError: the prompt is empty, or its logits are not finite.
    """
    if not prompt.shape[1]:
        raise SubjectError("The prompt is empty. Write something, or connect a picture and write <image1>.")
    chance = torch.Generator().manual_seed(settings.seed)
    reader = _Reader(model, prompt)
    ids: list[int] = []
    pictures: list[Tensor] = []
    for step in range(settings.max_new_tokens):
        if settings.mode == DRAW and not pictures and step >= settings.min_words:
            token = image_tokens[0]
        else:
            token = choose(reader.logits(), step, settings, image_tokens, chance)
        if token == image_tokens[0]:
            ids += image_tokens
            pictures.append(reader.picture(image_tokens))
        elif token == model.sizes.end or _ends_line(token, ids, model.tokenizer.newline):
            break
        else:
            ids.append(token)
            reader.append([token])
        on_token(step + 1, settings.max_new_tokens)
        if len(pictures) == settings.max_pictures:
            break
    if settings.mode == DRAW and not pictures:
        ids += image_tokens
        pictures.append(reader.picture(image_tokens))
    return Decoded(tuple(ids), torch.stack(pictures) if pictures else prompt.new_zeros(0, 8, prompt.shape[-1]))


class _Reader:
    """What the model has read, and what is still to be read before it is asked."""

    def __init__(self, model: LanguageModel, prompt: Tensor):
        self._model, self._cache, self._unread = model, new_cache(), prompt
        self._last = prompt[:, -1]

    def append(self, ids: Sequence[int]) -> None:
        """Have more tokens read, later."""
        self._unread = torch.cat([self._unread, self._model.embed(ids).to(self._unread)], 1)

    def logits(self) -> Tensor:
        """Of the next word, `[words]`, float32 on the CPU."""
        self._read()
        return self._model.logits(self._last)[0].float().cpu()

    def picture(self, image_tokens: Sequence[int]) -> Tensor:
        """Have the eight tokens read at once; the states at them, `[8, W]`."""
        self.append(image_tokens)
        return self._read()[0, -len(image_tokens) :]

    def _read(self) -> Tensor:
        if not self._unread.shape[1]:
            return self._unread
        states = self._model.read(self._unread, self._cache)
        self._unread, self._last = self._unread[:, :0], states[:, -1]
        return states


def choose(
    logits: Tensor, step: int, settings: DecodingSettings, image_tokens: Sequence[int], chance: torch.Generator
) -> int:
    """The next token.

    Args:
        logits: `[words]`, float32 on the CPU.
        step: how many were chosen before.

    Raises:
        SubjectError: a logit is NaN.
    """
    if bool(logits.isnan().any()):
        raise SubjectError(
            "The language model's numbers became NaN: they are too large for its type. Load it in bf16 or fp32."
        )
    logits = logits.clone()
    first, *others = image_tokens
    logits[others] = -torch.inf
    if settings.mode == TEXT or step < settings.min_words:
        logits[first] = -torch.inf
    elif settings.picture_bias > 1:
        logits[first] = logits[first].abs() * settings.picture_bias
    if settings.temperature == 0:
        return int(logits.argmax())
    shares = (logits / settings.temperature).softmax(-1)
    if settings.top_p < 1:
        shares = _likeliest(shares, settings.top_p)
    return int(torch.multinomial(shares, 1, generator=chance))


def _likeliest(shares: Tensor, top_p: float) -> Tensor:
    """The fewest likeliest words whose shares add up to `top_p`; all others zero."""
    ordered, places = shares.sort(descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
    return torch.zeros_like(shares).scatter(-1, places, ordered)


def _ends_line(token: int, ids: Sequence[int], newline: int) -> bool:
    """A reply is one line; one that begins with a new line has no such end."""
    return token == newline and bool(ids) and ids[0] != newline
