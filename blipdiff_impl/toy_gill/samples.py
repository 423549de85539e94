"""The corpus with pictures, as samples of GILL's training stage; and the folder of the text encoder it imitates."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ..blip_diffusion.checkpoints import open_checkpoint
from ..stable_diffusion.text_encoder import TextEncoder
from ..toy_world.bank import Bank, make_bank, open_bank
from ..toy_world.world import BACKGROUND_NAMES, subject_from_seed
from ..training.samples import Sample
from .corpus import Conversation, Scene, View, draw_caption, draw_conversation
from .places import FOLDER, TEXT_ENCODER

BANK = FOLDER / "bank"
BANK_VIEWS = 12000
COUNT = 1_000_000
CONVERSATION_SHARE = 0.6

# Never the mapper's target: the language model and the other heads see them.
HELD_OUT_PAIRS = frozenset((number, (5 * number + 3) % len(BACKGROUND_NAMES)) for number in range(12))


def toy_text_encoder() -> TextEncoder:
    """That of the embedded model, float32."""
    checkpoint = open_checkpoint("toybox")
    tensors = {name: value.float() for name, value in checkpoint.part("text_encoder").items()}
    return TextEncoder.from_canonical(checkpoint.config.text_encoder, tensors)


def write_text_encoder() -> None:
    """Write the embedded model's text encoder as a folder of transformers."""
    toy_text_encoder().clip.save_pretrained(TEXT_ENCODER)


class ToyConversations:
    """Samples 0 .. COUNT-1, each drawn anew from its number: conversations that end in a picture, and captions.

    Pictures come from a bank of `BANK_VIEWS` renders, made at the first use.

    Args:
        with_things: conversations alone, most of them about a thing that one of their pictures shows; that picture is
            the sample's `composite` then, and the thing its `category`.
    """

    def __init__(self, with_things: bool = False):
        self.groups = [COUNT]
        self._with_things = with_things
        make_bank(BANK_VIEWS, BANK)

    @cached_property
    def _bank(self) -> Bank:
        return open_bank(BANK)

    @cached_property
    def _views(self) -> list[View]:
        """What each picture of the bank shows; a subject takes a while to draw, and is asked for hundreds of times."""
        places = self._bank.labels[:, 1].tolist()
        return [View(subject_from_seed(number), BACKGROUND_NAMES[place]) for number, place in enumerate(places)]

    @cached_property
    def _places(self) -> dict[tuple[str, str], list[int]]:
        """Views of the bank by kind and place."""
        found: dict[tuple[str, str], list[int]] = {}
        for number, view in enumerate(self._views):
            found.setdefault((view.subject.category, view.place), []).append(number)
        return found

    def __getstate__(self) -> dict:
        """A reading process opens files of its own."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_bank", "_views", "_places")}

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((index, 31))
        if not self._with_things and rng.uniform() >= CONVERSATION_SHARE:
            number = int(rng.integers(len(self._bank.labels)))
            scene = draw_caption(rng, self._views[number])
            return Sample(f"toy caption {index}", self._bank.pictures[number], (scene.said,), target=scene.caption)
        wants_thing = self._with_things and rng.uniform() < 0.75
        talk, shown = self._talk(rng)
        while talk is None or (wants_thing and self._thing_of(talk) is None):
            talk, shown = self._talk(rng)
        scene = talk.turns[-1].drawn
        assert scene is not None  # the last turn is one with a picture
        thing = self._thing_of(talk) if self._with_things else None
        return Sample(
            f"toy conversation {index}", self._picture_of(scene, rng), (scene.said,),
            category=scene.kind or "",
            composite=None if thing is None else self._bank.pictures[shown[thing]],
            conversation=tuple(as_texts(talk)), pictures=tuple(self._bank.pictures[i] for i in shown),
            target=scene.caption,
        )  # fmt: skip

    def _talk(self, rng: np.random.Generator) -> tuple[Conversation | None, list[int]]:
        """A conversation that ends in a picture, if one came, and the views of the bank that it is about."""
        chosen: list[int] = []

        def draw() -> View:
            chosen.append(int(rng.integers(len(self._bank.labels))))
            return self._views[chosen[-1]]

        kind = ("picture", "two pictures")[int(rng.uniform() < 0.2)] if self._with_things else None
        talk = draw_conversation(rng, kind=kind, draw=draw).until_drawn()
        views = talk.views if talk else ()
        return talk, [next(i for i in chosen if self._views[i] == each) for each in views]

    @staticmethod
    def _thing_of(talk: Conversation) -> int | None:
        scene = talk.turns[-1].drawn
        return scene.shown_by if scene else None

    def _picture_of(self, scene: Scene, rng: np.random.Generator) -> np.ndarray:
        """A picture of what was asked for; of the look that was asked for where the bank has one."""
        assert scene.kind and scene.place
        fitting = self._places.get((scene.kind, scene.place)) or [int(rng.integers(len(self._bank.labels)))]
        alike = [i for i in fitting if f"{self._views[i].colour} {self._views[i].pattern}" == scene.look]
        found = alike or fitting
        return self._bank.pictures[found[int(rng.integers(len(found)))]]


def as_texts(talk: Conversation) -> list[str]:
    """Questions and answers by turns, pictures as `<image1>`; the last answer is without its new line.

    The new line behind an answer that had a picture belongs to the next question, as a picture comes there.
    """
    texts: list[str] = [""]
    for number, turn in enumerate(talk.turns):
        pictures = "".join(f"<image{view + 1}>" for view in turn.pictures)
        texts[-1] += pictures + (turn.question if talk.bare else f"Q: {turn.question}\nA:")
        last = number + 1 == len(talk.turns)
        texts += [f" {turn.answer}" + ("" if last or turn.drawn else "\n")]
        if not last:
            texts.append("\n" if turn.drawn else "")
    return texts
