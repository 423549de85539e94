"""Lines that the toy language model reads in training: conversations and captions of the corpus as ids, by lesson.

A picture stands in them as four words, before the start token where a conversation begins with one, so that pictures
have a place in its language later; in the second lesson as three positions, as GILL's prefix is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ..gill.tokenizer import TextTokenizer
from .corpus import Conversation, Scene, draw_caption, draw_conversation, draw_view

START = END = 2
CAPTION_SHARE, QUESTION_WEIGHT = 0.2, 0.1


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is read, and what is told beside.

    Attributes:
        rate, seed: learning rate at first, and where all chance comes from.
        captioned, shown: share of the captions, and of the conversations that end in a picture, behind which that
            picture's words are read.
        at_once, thing_at_once: share of the conversations, and of those about two things, in which these words are the
            whole answer.
        at_once_weight: what such words count.
        guided: share of the steps that are told where to look.
        places: whether where things are is looked up, too.
        blur: a picture is three positions as GILL's prefix is (`prefix.py`), with noise of this standard deviation on
            their embeddings; None: four words.
    """

    rate: float
    seed: int
    captioned: float
    shown: float
    at_once: float
    thing_at_once: float
    at_once_weight: float
    guided: float
    places: bool
    blur: float | None


LANGUAGE_LESSON = Lesson(
    rate=3e-3, seed=11, captioned=0.5, shown=0.5, at_once=0.1, thing_at_once=0.1, at_once_weight=1.0, guided=0.5,
    places=False, blur=None,
)  # fmt: skip
LOOK_UP_LESSON = Lesson(
    rate=1.5e-3, seed=12, captioned=0.35, shown=0.55, at_once=0.3, thing_at_once=0.4, at_once_weight=4.0, guided=1.0,
    places=True, blur=0.04,
)  # fmt: skip


@dataclass
class Line:
    """What is read, and how much each word counts as what has to be predicted.

    Attributes:
        ids, weights: of `T` positions.
        beside: by position, the id of a second word that is read there at once.
    """

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    beside: dict[int, int] = field(default_factory=dict)

    def add(self, ids: list[int], weight: float) -> None:
        """Go on with words that count so much each."""
        self.ids += ids
        self.weights += [weight] * len(ids)

    def add_picture(self, tags: list[int], as_prefix: bool) -> None:
        """Go on with a picture's four words; as GILL's prefix: kind, place, and colour with pattern."""
        if not as_prefix:
            self.add(tags, 0.0)
            return
        self.add(tags[:3], 0.0)
        self.beside[len(self.ids) - 1] = tags[3]


def as_line(
    talk: Conversation, tokenizer: TextTokenizer, rng: np.random.Generator | None = None, as_prefix: bool = False
) -> Line:
    """A conversation.

    Args:
        rng: says whose pictures' words stand in another order; None: nobody's.
        as_prefix: pictures are as GILL's prefix, in which the order is fixed.
    """
    line = Line()
    begun = False
    for kind, value in talk.segments():
        if kind == "picture":
            tags = talk.views[int(value)].tags()
            if rng is not None and not as_prefix and rng.uniform() < 0.3:
                tags = [tags[place] for place in rng.permutation(4)]
            line.add_picture(_tag_ids(tags, tokenizer), as_prefix)
            continue
        weight = 1.0 if kind == "answer" else QUESTION_WEIGHT
        line.add(tokenizer.ids(str(value)) if begun else [START, *tokenizer.ids(str(value))], weight)
        begun = True
    return line


def draw_line(tokenizer: TextTokenizer, rng: np.random.Generator, lesson: Lesson) -> Line:
    """A line of training by chance: a conversation or a caption, half of the captions behind a picture.

    Some captions, and conversations that end where a picture belongs, go on with that picture's words; of some the
    picture is the whole answer, with a lone space where [IMG0] stands later. So the model knows of a place for
    a picture what belongs there, and tells it from the end of an answer in words.
    """
    as_prefix, chance = lesson.blur is not None, rng.uniform()
    if rng.uniform() < CAPTION_SHARE:
        view = draw_view(rng) if rng.uniform() < 0.5 else None
        scene = draw_caption(rng, view)
        line = Line()
        if view:
            line.add_picture(_tag_ids(view.tags(), tokenizer), as_prefix)
        line.add([START, *tokenizer.ids(scene.said)], 1.0 if view else QUESTION_WEIGHT)
        if chance < lesson.captioned:
            line.add(_shown(scene, tokenizer, rng), 1.0)
        line.add([END], 1.0)
        return line
    talk = draw_conversation(rng)
    scene, shown, counts = talk.turns[-1].drawn, [], 1.0
    if scene and chance < lesson.shown:
        shown = _shown(scene, tokenizer, rng)
        if chance < (lesson.thing_at_once if talk.needs == "things" else lesson.at_once):
            counts = lesson.at_once_weight
            talk = replace(talk, turns=(*talk.turns[:-1], replace(talk.turns[-1], answer="")))
    line = as_line(talk, tokenizer, rng, as_prefix)
    if shown and not talk.turns[-1].answer:
        line.weights[-1] = 0.0  # the space is put there, later as now; what is said by itself begins with a word
    line.add(shown, counts)
    # Behind an answer a line ends or all does: a model that is certain of one never lets a picture come there.
    line.add([END if rng.uniform() < 0.5 else tokenizer.newline], 1.0)
    return line


def _shown(scene: Scene, tokenizer: TextTokenizer, rng: np.random.Generator) -> list[int]:
    """Ids of a drawn picture's words, in any order."""
    tags = scene.tags()
    return _tag_ids([tags[place] for place in rng.permutation(len(tags))], tokenizer)


def _tag_ids(tags: list[str], tokenizer: TextTokenizer) -> list[int]:
    """Ids of the words that stand for a picture."""
    return tokenizer.ids("".join(f" {tag}" for tag in tags))
