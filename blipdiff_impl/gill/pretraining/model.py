"""The three losses of GILL (docs/method.md 14.10), on a language model that does not change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...training.distributed import gather, gather_values, process, total
from ..config import IMAGE_TOKENS, GILLConfig
from ..language_model import LanguageModel
from ..parts import LearnedParts
from .settings import GILLSettings

_IGNORED = -100


@dataclass(frozen=True, eq=False)
class GILLBatch:
    """Pairs of picture and caption.

    Attributes:
        ids: of captions with the eight at their end, `[B, T]`, filled up behind.
        lengths: how many of them there are, with start token and eight, `[B]`.
        talks: what is read before the picture with the eight, likewise: captions, or conversations. Below zero are
            positions of pictures: -1 is the first one of the first picture.
        talk_lengths: likewise.
        due: which of them are to be predicted, `[B, T]`.
        shown: what the picture encoder says of the conversations' pictures, `[B, P, vision width]`.
        pooled: what the picture encoder says, `[B, vision width]`.
        targets: what the text encoder says of the captions, `[B, 77, W]`.
        joined: whether two pairs make one sequence, for each of the three losses, `[B, 3]`; the first process's first
            row counts.
    """

    ids: Tensor
    lengths: Tensor
    talks: Tensor
    talk_lengths: Tensor
    due: Tensor
    shown: Tensor
    pooled: Tensor
    targets: Tensor
    joined: Tensor


class GILLTraining(nn.Module):
    """Batches to losses.

    Args:
        language: frozen; not a part of this module, so that it is neither stored nor shared out.
        word_norm: mean length of its words' embeddings.
    """

    def __init__(self, config: GILLConfig, settings: GILLSettings, language: LanguageModel, word_norm: float):
        super().__init__()
        torch.manual_seed(settings.seed)
        self.parts = LearnedParts(config)
        self._config, self._settings, self._word_norm = config, settings, word_norm
        self._others = (language,)
        self.after_step()

    def forward(self, batch: GILLBatch) -> dict[str, Tensor]:
        """Losses by name."""
        drawn = gather_values(batch.joined[:1].int())[0].tolist()  # by the first pair of all, as in one process
        joined = [bool(each) and len(batch.ids) > 1 for each in drawn]
        weight = self._settings.word_weight
        losses = {"caption": self._words(*self._sequences(batch, joined[0], pictures=True))[1]}
        states, words = self._words(*self._sequences(batch, joined[1], pictures=False))
        losses["retrieval"] = self._contrast(self._eight(states, batch, joined[1]), batch.pooled) + weight * words
        if joined[2] != joined[1]:
            states, words = self._words(*self._sequences(batch, joined[2], pictures=False))
        distance = self._distance(self._eight(states, batch, joined[2]), batch.targets)
        losses["generation"] = distance + weight * words
        return losses

    def mapping(self, batch: GILLBatch) -> Tensor:
        """The mapper's distance alone, without joined pairs."""
        states = self._read(self._sequences(batch, False, pictures=False)[0])
        return self._distance(self._eight(states, batch, False), batch.targets)

    @torch.no_grad()
    def after_step(self) -> None:
        """Rows of the eight get their length back."""
        rows = self.parts.rows
        rows.mul_(self._settings.row_norm * self._word_norm / rows.norm(dim=1, keepdim=True).clamp(min=1e-12))

    @property
    def _language(self) -> LanguageModel:
        return self._others[0]

    def _sequences(self, batch: GILLBatch, joined: bool, *, pictures: bool) -> tuple[Tensor, Tensor]:
        """Embeddings `[S, L, W]` and the words to be predicted at each position `[S, L]`.

        With pictures a sequence is prefix and caption; without it is what is read before the picture and the eight, of
        which only the first is predicted. Two that are joined follow each other, the second without start token.
        """
        pieces: list[Tensor] = []
        labels: list[Tensor] = []
        made = self._caption(batch) if pictures else self._talk(batch)
        for number, (embedded, wanted, start) in enumerate(made):
            if _is_second(number, joined):
                kept = torch.arange(len(wanted), device=wanted.device) != start
                pieces[-1] = torch.cat([pieces[-1], embedded[kept]])
                labels[-1] = torch.cat([labels[-1], wanted[kept]])
            else:
                pieces.append(embedded)
                labels.append(wanted)
        padded = nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        return padded, nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=_IGNORED)

    def _caption(self, batch: GILLBatch) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Of each pair prefix and caption: embeddings, words to be predicted, and the start token's position."""
        prefixes = self.parts.prefix(batch.pooled)
        for prefix, ids, length in zip(prefixes, batch.ids, batch.lengths.tolist(), strict=True):
            words = ids[: length - IMAGE_TOKENS]
            embedded = torch.cat([prefix, self._embed(words, prefix)])
            yield embedded, torch.cat([words.new_full((len(prefix),), _IGNORED), words]), len(prefix)

    def _talk(self, batch: GILLBatch) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Likewise, of what is read before each picture with the eight behind it."""
        first, start = self._config.first_image_token, self._language.sizes.start
        seen = self.parts.prefix(batch.shown.flatten(0, 1)).unflatten(0, batch.shown.shape[:2]).flatten(1, 2)
        for number, length in enumerate(batch.talk_lengths.tolist()):
            ids, due = batch.talks[number, :length], batch.due[number, :length]
            wanted = ids.masked_fill((ids > first) | (ids < 0) | ~due, _IGNORED)
            yield self._embed(ids, seen[number]), wanted, ids.tolist().index(start)

    def _embed(self, ids: Tensor, seen: Tensor) -> Tensor:
        """Embeddings `[T, W]` of the frozen words, of the eight, which learn, and of pictures.

        Args:
            seen: positions of pictures, `[N, W]`, which ids below zero count from -1 on.
        """
        first = self._config.first_image_token
        is_own = ids >= first
        table = self._language.network.get_input_embeddings().weight
        words = F.embedding(ids.masked_fill(is_own, 0).clamp(min=0), table).to(self.parts.rows.dtype)
        own = F.embedding((ids - first).clamp(min=0), self.parts.rows)
        embedded = torch.where(is_own[:, None], own, words)
        places = ids < 0
        if not bool(places.any()):
            return embedded
        return embedded.masked_scatter(places[:, None], seen[-1 - ids[places]].to(embedded.dtype))

    def _words(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Last states, and the mean cross-entropy of the words that follow, over those of all processes.

        Texts differ in length; each process divides by the mean count, so that the mean over processes is right.
        """
        language, first = self._language, self._config.first_image_token
        states = self._read(embeddings)
        places = labels[:, 1:] != _IGNORED
        said = states[:, :-1][places]
        table = language.network.get_input_embeddings().weight[:first]
        logits = torch.cat([said @ table.T, said @ self.parts.rows.to(said.dtype).T], -1).float()
        missing = first - len(table)  # the table may end before the eight begin
        wanted = labels[:, 1:][places]
        losses = F.cross_entropy(logits, torch.where(wanted >= first, wanted - missing, wanted), reduction="sum")
        count = total(places.sum().float()).clamp(min=1)  # none where every last answer is left out
        return states, losses * process()[1] / count

    def _read(self, embeddings: Tensor) -> Tensor:
        """Last states. What fills up stands behind, unseen."""
        decoder = self._language.network.get_decoder()
        return decoder(inputs_embeds=embeddings.to(self._language.dtype), use_cache=False).last_hidden_state

    def _eight(self, states: Tensor, batch: GILLBatch, joined: bool) -> Tensor:
        """The last states at each pair's eight tokens, `[B, 8, W]`."""
        found, before, row = [], 0, -1
        for number, length in enumerate(batch.talk_lengths.tolist()):
            second = _is_second(number, joined)
            row, end = (row, before + length - 1) if second else (row + 1, length)
            found.append(states[row, end - IMAGE_TOKENS : end])
            before = end
        return torch.stack(found)

    def _distance(self, states: Tensor, targets: Tensor) -> Tensor:
        """Mean distance of the mapper's rows from the text encoder's."""
        found = self.parts.conditioning(states.float())
        return (found - targets.to(found)).norm(dim=-1).mean()

    def _contrast(self, states: Tensor, pooled: Tensor) -> Tensor:
        """Symmetric InfoNCE over the batch of all processes."""
        texts, pictures = self.parts.text_embedding(states), self.parts.picture_embedding(pooled)
        scale = self.parts.logit_scale.exp()
        all_texts, all_pictures = gather(texts), gather(pictures)
        due = torch.arange(len(texts), device=texts.device) + process()[0] * len(texts)
        found = F.cross_entropy(scale * texts @ all_pictures.T, due)
        return (found + F.cross_entropy(scale * pictures @ all_texts.T, due)) / 2


def _is_second(number: int, joined: bool) -> bool:
    """Whether a pair stands behind the one before it; of an odd batch the last stands alone."""
    return joined and number % 2 == 1
