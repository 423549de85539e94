"""Conversations about the toy world, from a small grammar: what the toy language model has read, and GILL after it.

A conversation is turns of question and answer in the form that GILL Turn makes, or one line without that form. Where a
picture belongs the answer says what is on it and ends in a colon: "here is a cat in the snow:".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..blip_diffusion.pretraining.toy import COLOURS, colour_word
from ..toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, ToySubject, captions, subject_from_seed

PATTERN_WORDS = {
    "plain": "plain", "stripes": "striped", "bars": "barred", "dots": "dotted", "checks": "checked", "halves": "split",
}  # fmt: skip
TRAINED, HELD_OUT = "trained", "held out"

# Ways to put one thing. The last of each list is kept out of every training; its words are not.
_DRAW = ("draw {thing}", "show me {thing}", "paint {thing}", "please make {thing}", "i want {thing}",
         "can you draw {thing}?", "give me a picture of {thing}", "let me see {thing}", "make a picture of {thing}",
         "i want to see {thing}")  # fmt: skip
_HAVE = ("i have a {kind}", "this is about a {kind}", "we have a {kind} here", "think of a {kind}", "here is a {kind}")
_WHERE = ("we are {place}", "it is {place}", "we put it {place}", "think of it {place}", "now it is {place}")
_THERE = ("there is {first} and {second}", "i have {first} and {second}", "think of {first} and {second}",
          "i see {first} and {second}", "we have {first} and {second}")  # fmt: skip
_MOVE = ("the same {place}", "now {place}", "put it {place}", "and {place}?", "draw it {place}",
         "the same thing {place}", "show me it {place}", "can you put it {place}?", "i want it {place}",
         "now draw the same {place}")  # fmt: skip
_SWAP = ("now a {kind}", "a {kind} there", "now a {kind} there", "draw a {kind} there", "the same place with a {kind}",
         "and a {kind}?", "put a {kind} there", "i want a {kind} there", "show me a {kind} there",
         "the same with a {kind}")  # fmt: skip
_AGAIN = ("draw it", "show it", "let me see it", "paint it", "can you draw it?", "i want to see it", "please draw it",
          "make a picture of it", "show me it")  # fmt: skip
_PICK = ("draw the {kind}", "show me the {kind}", "the {kind} please", "let me see the {kind}", "i want the {kind}",
         "paint the {kind}")  # fmt: skip
_BOTH = ("put the first thing where the second is", "the first thing in the second place",
         "draw the first thing where the second is", "the first thing there", "show me the first in the second place",
         "i want the first thing where the second is")  # fmt: skip
_WHAT = ("what is it?", "what do we have?", "what is this?", "what thing is it?", "what have we here?")
_WHEREABOUTS = ("where is it?", "in which place is it?", "where are we?", "what place is it?", "which place is this?")
_SEE = ("what do you see?", "what is on the picture?", "say what you see", "what can you see?")
_COLOUR = ("what colour is it?", "which colour?", "what colour does it have?", "which colour is it?")
_PATTERN = ("which pattern does it have?", "what pattern is it?", "which pattern?", "what pattern does it have?")
_OPENING = "here is"
_NODS = ("nice.", "ok.")


@dataclass(frozen=True)
class View:
    """What a picture shows: a subject (its kind and look) and a place."""

    subject: ToySubject
    place: str

    @property
    def colour(self) -> str:
        return colour_word(self.subject.look.main)

    @property
    def pattern(self) -> str:
        return PATTERN_WORDS[self.subject.look.pattern]

    def tags(self) -> list[str]:
        """Four words that stand for the picture where there are only words."""
        return [self.subject.category, self.place.split(" ")[-1], self.colour, self.pattern]


@dataclass(frozen=True)
class Scene:
    """What is talked about; None where it was not said yet.

    Attributes:
        look: what was asked for, "red striped".
        shown_by: number of the view that shows the very thing, if one does.
    """

    kind: str | None = None
    place: str | None = None
    phrase: str | None = None
    look: str = ""
    colour: str = ""
    pattern: str = ""
    shown_by: int | None = None

    @property
    def caption(self) -> str:
        """What the text encoder is given: without look, which it has no words for."""
        return f"a {self.kind} {self.phrase}"

    @property
    def said(self) -> str:
        """What the answer calls it."""
        return f"a {self.look} {self.kind} {self.phrase}" if self.look else self.caption

    def tags(self) -> list[str]:
        """The words that stand for a picture of it; those of a look only where one is known."""
        found = [self.kind or "", (self.place or "").split(" ")[-1]]
        return [*found, self.colour, self.pattern] if self.colour else found


@dataclass(frozen=True)
class Turn:
    """One question with its answer.

    Attributes:
        pictures: numbers of the conversation's views that stand before the question.
        drawn: what the picture behind the answer shows; None for an answer in words.
    """

    question: str
    answer: str
    pictures: tuple[int, ...] = ()
    drawn: Scene | None = None
    topic: str = ""


@dataclass(frozen=True)
class Conversation:
    """Turns about views, which are counted from 0.

    Attributes:
        bare: one line without "Q:" and "A:".
        needs: words that say which kind of conversation it is: "text", "picture", "two pictures", "things".
    """

    views: tuple[View, ...]
    turns: tuple[Turn, ...]
    bare: bool = False
    needs: str = "text"

    def until_drawn(self) -> Conversation | None:
        """The turns up to the last one with a picture; None where there is none."""
        drawn = [number for number, turn in enumerate(self.turns) if turn.drawn]
        return replace(self, turns=self.turns[: drawn[-1] + 1]) if drawn else None

    def segments(self) -> list[tuple[str, str | int]]:
        """What is read, in order: ("picture", number of the view), ("ask", words of the question and all around it) or
        ("answer", words), with the new line behind an answer that is not the last one."""
        found: list[tuple[str, str | int]] = []
        for number, turn in enumerate(self.turns):
            found += [("picture", view) for view in turn.pictures]
            found.append(("ask", turn.question if self.bare else f"Q: {turn.question}\nA:"))
            end = "\n" if number + 1 < len(self.turns) else ""
            found.append(("answer", f" {turn.answer}{end}"))
        return found


def draw_view(rng: np.random.Generator, held_out: bool = False) -> View:
    """A picture's content by chance."""
    seed = HELD_OUT_SEED + int(rng.integers(10**6)) if held_out else int(rng.integers(HELD_OUT_SEED))
    return View(subject_from_seed(seed), _of(rng, BACKGROUND_NAMES))


def draw_caption(rng: np.random.Generator, view: View | None = None, look_share: float = 0.4) -> Scene:
    """A caption by chance; of a view, that of what it shows."""
    place = view.place if view else _of(rng, BACKGROUND_NAMES)
    kind = view.subject.category if view else _of(rng, CATEGORIES)
    with_look = rng.uniform() < look_share
    phrase = _of(rng, captions(place))
    if not with_look:
        return Scene(kind, place, phrase)
    view = view or draw_view(rng)
    return Scene(kind, place, phrase, f"{view.colour} {view.pattern}", view.colour, view.pattern)


def draw_conversation(
    rng: np.random.Generator,
    wording: str = TRAINED,
    held_out: bool = False,
    kind: str | None = None,
    draw: Callable[[], View] | None = None,
) -> Conversation:
    """A conversation by chance, of one to four turns; its last one may be an answer in words.

    Args:
        wording: `TRAINED` or `HELD_OUT`: which ways to put things are drawn from.
        held_out: subjects of pictures that are never trained on.
        kind: "text", "picture", "two pictures" or "things"; None for a mix.
        draw: gives views; None for any.
    """
    kind = kind or _of(
        rng, ("text", "picture", "picture", "things", "things", "things", "two pictures", "two pictures")
    )
    return _Talk(rng, wording, draw or (lambda: draw_view(rng, held_out))).of(kind)


class _Talk:
    """A conversation while it is made."""

    def __init__(self, rng: np.random.Generator, wording: str, draw: Callable[[], View]):
        self.rng, self.wording, self.draw = rng, wording, draw
        self.turns: list[Turn] = []
        self.scene = Scene()

    def of(self, kind: str) -> Conversation:
        views: tuple[View, ...] = ()
        length = int(self.rng.integers(1, 5))
        bare = False
        if kind == "text":
            self._begin_with_words()
        elif kind == "things":
            self._begin_with_things()
        elif kind == "picture":
            views = (self.draw(),)
            bare = length == 1 and self.rng.uniform() < 0.5
            self._begin_with_picture(views[0])
        else:
            first, second = self.draw(), self.draw()
            while first.subject.category == second.subject.category or first.place == second.place:
                second = self.draw()
            views = first, second
            self._begin_with_pictures(first, second)
        while len(self.turns) < length:
            self._go_on()
        return Conversation(views, tuple(self.turns), bare, kind)

    def _begin_with_words(self) -> None:
        kind, place = _of(self.rng, CATEGORIES), _of(self.rng, BACKGROUND_NAMES)
        phrase = _of(self.rng, captions(place))
        chance = self.rng.uniform()
        if chance < 0.35:
            self._ask_for(replace(self._with_look(kind), place=place, phrase=phrase))
            return
        self.scene = Scene(kind)
        if chance < 0.75:
            self._say(self._way(_HAVE).format(kind=kind))
            if self.rng.uniform() < 0.5:
                self.scene = replace(self.scene, place=place, phrase=phrase)
                self._say(self._way(_WHERE).format(place=phrase))
                self._picture(self._way(_AGAIN))
            else:
                self._move()
        else:
            self.scene = Scene(None, place, phrase)
            self._say(self._way(_WHERE).format(place=phrase))
            self._swap()

    def _begin_with_things(self) -> None:
        first, second = (draw_caption(self.rng, look_share=0) for _ in range(2))
        while first.kind == second.kind or first.place == second.place:
            second = draw_caption(self.rng, look_share=0)
        self._say(self._way(_THERE).format(first=first.caption, second=second.caption))
        chosen, other = (first, second) if self.rng.uniform() < 0.5 else (second, first)
        self.scene = chosen
        if self.rng.uniform() < 0.7:
            self._picture(self._way(_PICK).format(kind=chosen.kind))
        else:
            self.scene = replace(other, kind=chosen.kind)
            self._picture(f"draw the {chosen.kind} where the {other.kind} is")

    def _begin_with_picture(self, view: View) -> None:
        self.scene = _seen(view)
        chance = self.rng.uniform()
        if chance < 0.35:
            self._move()
        elif chance < 0.6:
            self._swap()
        else:
            self._ask_about()
        self.turns[0] = replace(self.turns[0], pictures=(0,))

    def _begin_with_pictures(self, first: View, second: View) -> None:
        together = self.rng.uniform() < 0.6
        if not together:
            self.scene = _seen(first)
            self._ask_about()
            self.turns[0] = replace(self.turns[0], pictures=(0,))
        seen = _seen(second, 1)
        self.scene = replace(_seen(first), place=seen.place, phrase=seen.phrase)
        if self.rng.uniform() < 0.25:
            self.scene = _seen(second, 1) if self.rng.uniform() < 0.5 else _seen(first)
            which = "second" if self.scene.kind == second.subject.category else "first"
            self._picture(f"draw the {which} thing again" if self.rng.uniform() < 0.5 else f"show me the {which} thing")
        else:
            self._picture(self._way(_BOTH))
        place = len(self.turns) - 1
        self.turns[place] = replace(self.turns[place], pictures=(0, 1) if together else (1,))

    def _go_on(self) -> None:
        chance = self.rng.uniform()
        if chance < 0.35:
            self._ask_about()
        elif chance < 0.65:
            self._move()
        elif chance < 0.9:
            self._swap()
        else:
            self._ask_for(replace(self._with_look(_of(self.rng, CATEGORIES)), **self._somewhere()))

    def _ask_for(self, scene: Scene) -> None:
        self.scene = scene
        self._picture(self._way(_DRAW).format(thing=scene.said))

    def _move(self) -> None:
        place = _of(self.rng, [name for name in BACKGROUND_NAMES if name != self.scene.place])
        phrase = _of(self.rng, captions(place))
        self.scene = replace(self.scene, place=place, phrase=phrase)
        self._picture(self._way(_MOVE).format(place=phrase))

    def _swap(self) -> None:
        kind = _of(self.rng, [name for name in CATEGORIES if name != self.scene.kind])
        self.scene = Scene(kind, self.scene.place, self.scene.phrase)
        self._picture(self._way(_SWAP).format(kind=kind))

    def _ask_about(self) -> None:
        """A question that is answered in words."""
        scene = self.scene
        choices: list[tuple[tuple[str, ...], str, str]] = [
            (_WHAT, f"a {scene.kind}.", "kind"),
            (_WHEREABOUTS, f"{scene.phrase}.", "place"),
        ]
        if scene.colour:
            whole = f"a {scene.colour} {scene.pattern} {scene.kind} {scene.phrase}."
            choices += [(_SEE, whole, "all"), (_COLOUR, f"{scene.colour}.", "colour"),
                        (_PATTERN, f"{scene.pattern}.", "pattern")]  # fmt: skip
        ways, answer, topic = choices[int(self.rng.integers(len(choices)))]
        self.turns.append(Turn(self._written(self._way(ways)), answer, topic=topic))

    def _say(self, words: str) -> None:
        self.turns.append(Turn(self._written(words), _of(self.rng, _NODS)))

    def _picture(self, words: str) -> None:
        answer = f"{_OPENING} {self.scene.said}:"
        self.turns.append(Turn(self._written(words), answer, drawn=self.scene))

    def _with_look(self, kind: str) -> Scene:
        if self.rng.uniform() < 0.7:
            return Scene(kind)
        view = draw_view(self.rng)
        return Scene(kind, look=f"{view.colour} {view.pattern}", colour=view.colour, pattern=view.pattern)

    def _somewhere(self) -> dict[str, str]:
        place = _of(self.rng, BACKGROUND_NAMES)
        return {"place": place, "phrase": _of(self.rng, captions(place))}

    def _way(self, ways: tuple[str, ...]) -> str:
        return ways[-1] if self.wording == HELD_OUT else _of(self.rng, ways[:-1])

    def _written(self, words: str) -> str:
        """As somebody might type it: the first letter large or not, a full stop or none."""
        if self.rng.uniform() < 0.3:
            words = words[0].upper() + words[1:]
        if not words.endswith("?") and self.rng.uniform() < 0.7:
            words += "."
        return words


def _seen(view: View, number: int = 0) -> Scene:
    """What is known of a picture. Of the two phrases for its place always the first, so that there is one answer."""
    return Scene(view.subject.category, view.place, captions(view.place)[0], "", view.colour, view.pattern, number)


def words() -> list[str]:
    """Every word and sign of the corpus as it stands in a line: with its space, and where lines begin without."""
    templates = [*_DRAW, *_HAVE, *_WHERE, *_THERE, *_MOVE, *_SWAP, *_AGAIN, *_PICK, *_BOTH, *_WHAT, *_WHEREABOUTS,
                 *_SEE, *_COLOUR, *_PATTERN, *_NODS, _OPENING, "draw the second thing again",
                 "show me the first thing"]  # fmt: skip
    found = dict.fromkeys(["a", "Q", "A"])
    for line in templates:
        first, *rest = line.replace("{", " ").replace("}", " ").replace("?", "").replace(".", "").split()
        found |= dict.fromkeys([first, first.capitalize()])
        found |= dict.fromkeys(f" {word}" for word in (first, first.capitalize(), *rest))
    phrases = [word for name in BACKGROUND_NAMES for phrase in captions(name) for word in phrase.split()]
    tags = [name.split(" ")[-1] for name in BACKGROUND_NAMES]
    for word in (*CATEGORIES, *phrases, *tags, *COLOURS, *PATTERN_WORDS.values(), "a", "in", "draw", "where", "is"):
        found[f" {word}"] = None
    return list(found)


def _of(rng: np.random.Generator, choices):
    return choices[int(rng.integers(len(choices)))]
