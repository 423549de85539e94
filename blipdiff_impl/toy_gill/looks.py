"""Where heads of the toy language model are told to look while it learns, as terms of its loss.

A model of this size does not come to look things up by itself in four thousand steps; told where to look, in some
hundred.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..gill.tokenizer import TextTokenizer
from ..toy_world.world import BACKGROUND_NAMES, CATEGORIES, captions

LOOK_UP_HEADS = 2  # of the second layer; the other two look up where a thing is
# How far behind a thing's word each of these looks. They tell the place, and how it was put.
PLACE_WORDS = (3, 2)
LOOK_BACK = 3  # heads of the first layer, so one is left to read what else there is: a picture's prefix


def looks_back(first: torch.Tensor) -> torch.Tensor:
    """How far heads of the first layer are from looking at the words one, two and three before.

    Args:
        first: attention of the layer [B, heads, T, T], as for all that follow.

    Returns:
        Mean -log of the attention that lies where it should, as all that follow: 0 at best.
    """
    before = [
        -first[:, back - 1].diagonal(-back, 1, 2)[:, LOOK_BACK - back :].clamp(min=1e-4).log().mean()
        for back in range(1, LOOK_BACK + 1)
    ]
    return torch.stack(before).mean()


def looks_up(second: torch.Tensor, ids: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """How far two heads of the second layer are from looking things up (an induction head, Olsson et al. 2022).

    Where an answer repeats what was said earlier, they are to look at the word that came next there. Which of two
    things stands where is read that way.

    Args:
        ids: [B, T].
        answers: bool [B, T - 1], whether the next word is one of an answer.
    """
    same = (ids[:, :, None] == ids[:, None]).tril(-1)
    length, run = same.int(), same
    for back in range(1, LOOK_BACK + 1):
        run = run & F.pad(same[:, :-back, :-back], (back, 0, back, 0))
        length = length + run
    # what came next there has to be what comes next here
    length = length[:, :-1, :-1] * (ids[:, 1:, None] == ids[:, None, 1:]) * answers[..., None]
    best = (length == length.amax(-1, keepdim=True).clamp(min=1)).float()
    known = best.sum(-1) > 0
    looked = (second[:, :LOOK_UP_HEADS, :-1, 1:] * best[:, None]).sum(-1).clamp(min=1e-4).log()
    return -looked.transpose(1, 2)[known].sum() / (LOOK_UP_HEADS * known.sum()).clamp(min=1)


@dataclass(frozen=True)
class ThingWords:
    """Ids of the words by which a thing that is asked for is found where it was spoken of.

    Attributes:
        things: of the kinds.
        the: before a thing that is asked for.
        where: first words of places.
        space: of the lone space before a picture.
        newline: of the end of a line.
    """

    things: torch.Tensor
    the: torch.Tensor
    where: torch.Tensor
    space: int
    newline: int

    @classmethod
    def of(cls, tokenizer: TextTokenizer) -> ThingWords:
        starts = {phrase.split(" ")[0] for name in BACKGROUND_NAMES for phrase in captions(name)}
        lists = CATEGORIES, ("the", "The"), sorted(starts)
        ids = (torch.tensor([tokenizer.ids(f" {word}")[0] for word in words]) for words in lists)
        return cls(*ids, tokenizer.ids(" ")[0], tokenizer.newline)

    def pairs(self, ids: torch.Tensor) -> torch.Tensor:
        """Where "the cat" is asked for, and where the last "cat" before that had a place: bool [B, T, T].

        Args:
            ids: [B, T].
        """
        thing = torch.isin(ids, self.things)
        asked = thing & F.pad(torch.isin(ids, self.the), (1, -1))
        placed = thing & F.pad(torch.isin(ids, self.where), (-1, 1))
        same = (asked[:, :, None] & placed[:, None] & (ids[:, :, None] == ids[:, None])).tril(-1)
        return same & _last(same)

    def asked_for(self, ids: torch.Tensor, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a picture that follows its question at once, the thing and the one whose place it is to have, likewise."""
        lines = (ids == self.newline).cumsum(1)
        same_turn = lines[:, :, None] - lines[:, None] == 1  # question and answer are a line each
        named = (same_turn & (ids == self.space)[:, :, None] & pairs.any(-1)[:, None]).tril(-1)
        return named & (named.cumsum(-1) == 1), named & _last(named)


def finds_places(second: torch.Tensor, third: torch.Tensor, ids: torch.Tensor, words: ThingWords) -> torch.Tensor:
    """How far the other heads of the second layer are from looking up, at "the cat", where the cat was, and two of the
    third, where a picture follows at once, from looking at the thing and at the one whose place it gets."""
    pairs = words.pairs(ids)
    places = [F.pad(pairs, (step, -step)) for step in PLACE_WORDS]
    found = [_missed(second[:, head], due) for head, due in enumerate(places, LOOK_UP_HEADS)]
    asked = [_missed(third[:, head], due) for head, due in enumerate(words.asked_for(ids, pairs))]
    return torch.stack(found).mean() + torch.stack(asked).mean()


def _missed(looks: torch.Tensor, due: torch.Tensor) -> torch.Tensor:
    """Of a head's attention [B, T, T] and where it should lie, for words that should look somewhere."""
    asked = due.any(-1)
    return -(looks * due).sum(-1)[asked].clamp(min=1e-4).log().sum() / asked.sum().clamp(min=1)


def _last(places: torch.Tensor) -> torch.Tensor:
    """Of bool [..., T], true at the last place that is set, and from there back to the one before."""
    return places.flip(-1).cumsum(-1).flip(-1) == 1
