"""GILL's training as the trainer sees it: samples to batches, the model, and the file that comes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import SubjectError
from ...files import as_tensor
from ...pictures.preprocess import fit_square, normalise
from ...training.samples import BrokenSample, Sample
from ..checkpoint import save_gill
from ..config import IMAGE_TOKENS, GILLConfig, MapperConfig
from ..interleaving import split_places
from ..parts import LearnedParts
from .frozen import FrozenGILL, text_ids
from .model import GILLBatch, GILLTraining
from .settings import STORED, GILLSettings

PARTS = "parts."
"""In front of the learned parts' names in the state of the model in training."""


@dataclass(frozen=True)
class GILLExample:
    """One pair, ready.

    Attributes:
        pixels: `[3, S, S]` for the picture encoder.
        ids: of the caption with the eight, `[text_length]`, filled up behind; `length` of them count.
        talk: of what is read before the picture with the eight, likewise: the caption, or a conversation. Below zero
            are positions of pictures: -1 is the first one of the first picture.
        due: which of them are to be predicted, `[text_length]`.
        shown: pictures of the conversation, `[most, 3, S, S]`; `count` of them are there.
        text: of the caption for the text encoder, `[77]`.
        joined: for each loss whether two pairs make one sequence, `[3]`.
    """

    pixels: Tensor
    ids: Tensor
    length: Tensor
    talk: Tensor
    talk_length: Tensor
    due: Tensor
    shown: Tensor
    count: Tensor
    text: Tensor
    joined: Tensor


class GILLTask:
    """See the module, and `training.task` for what a task is."""

    result = "gill.safetensors"
    slow: tuple[str, ...] = ()
    vectors_decay = True  # as published: AdamW on all

    def __init__(self, settings: GILLSettings):
        self.settings = settings
        self.frozen = FrozenGILL(settings)
        language = self.frozen.language
        self.config = GILLConfig(
            language_width=language.sizes.width,
            vision_width=self.frozen.vision.width,
            visual_tokens=settings.visual_tokens,
            retrieval_width=settings.retrieval_width,
            first_image_token=language.tokenizer.size + 1,  # as published, where one more word lies between
            text_encoder=self.frozen.fingerprint,
            mapper=MapperConfig(
                width=settings.mapper_width,
                heads=settings.mapper_heads,
                encoder_layers=settings.mapper_layers,
                decoder_layers=settings.mapper_layers,
                feed_forward=settings.mapper_feed_forward,
                output_width=self.frozen.text_width,
            ),
        )
        longest = (2 if settings.joined else 1) * (settings.text_length + settings.visual_tokens)
        if longest > language.sizes.positions:
            raise SubjectError(
                f"{'Two joined captions' if settings.joined else 'A caption'} of text_length = {settings.text_length} "
                f"take up to {longest} positions, more than the {language.sizes.positions} of the language model. "
                "Lower text_length."
            )
        self.model = GILLTraining(self.config, settings, language, self.frozen.word_norm)

    def prepare(self, sample: Sample, rng: np.random.Generator) -> GILLExample:
        """Draw what is left to chance for one sample."""
        caption = sample.captions[rng.integers(len(sample.captions))]
        joined = torch.from_numpy(rng.uniform(size=3) < self.settings.joined)
        ids = self.caption_ids(caption)
        talk, due = ids, [True] * len(ids)
        if sample.conversation:
            talk, due = self.conversation_ids(sample, forced=bool(rng.uniform() < self.settings.forced))
        shown = torch.zeros(self.settings.pictures, *([3, self.frozen.vision.side, self.frozen.vision.side]))
        for number, picture in enumerate(sample.pictures[: self.settings.pictures]):
            shown[number] = self._pixels(picture)
        filled, length = self._filled(ids)
        talked, talk_length = self._filled(talk)
        counted, _ = self._filled([int(each) for each in due])
        return GILLExample(
            self._pixels(sample.picture), filled, length, talked, talk_length, counted.bool(), shown,
            torch.tensor(len(sample.pictures)), text_ids(sample.target or caption), joined,
        )  # fmt: skip

    def caption_ids(self, caption: str) -> list[int]:
        """Start token, caption and the eight; a long caption loses its end."""
        language = self.frozen.language
        words = [language.sizes.start, *language.tokenizer.ids(caption)]
        return [*words[: self.settings.text_length - IMAGE_TOKENS], *self.config.image_tokens]

    def conversation_ids(self, sample: Sample, forced: bool = False) -> tuple[list[int], list[bool]]:
        """What is read of a conversation with the eight, and which of it is to be predicted: answers, and [IMG0] behind
        one.

        Args:
            forced: leave out the last answer.

        Raises:
            BrokenSample: it is too long, has no words, or has places without a picture.
        """
        texts = sample.conversation
        if forced and len(texts) % 2 == 0:
            texts = texts[:-1]
        start, begun = self.frozen.language.sizes.start, False
        ids: list[int] = []
        due: list[bool] = []
        for number, text in enumerate(texts):
            answers = number % 2 == 1
            for piece in split_places(text):
                if isinstance(piece, int):
                    found = self._picture_ids(sample, piece)
                    due += [False] * len(found)
                elif piece:
                    found = self.frozen.language.tokenizer.ids(piece)
                    due += [False] * (not begun) + [answers] * len(found)
                    found, begun = found if begun else [start, *found], True
                else:
                    continue
                ids += found
        if not begun:
            raise BrokenSample(
                f"{sample.key}: what is read of the conversation has no words, only pictures; add a question."
            )
        answered = len(texts) % 2 == 0
        ids, due = [*ids, *self.config.image_tokens], [*due, *[answered] * IMAGE_TOKENS]
        if len(ids) > self.settings.text_length:
            raise BrokenSample(
                f"{sample.key}: the conversation takes {len(ids)} positions, more than text_length = "
                f"{self.settings.text_length}."
            )
        return ids, due

    def _picture_ids(self, sample: Sample, number: int) -> list[int]:
        if not 1 <= number <= min(len(sample.pictures), self.settings.pictures):
            raise BrokenSample(
                f"{sample.key}: the conversation has <image{number}>, but {len(sample.pictures)} pictures, of which "
                f"{self.settings.pictures} are taken (setting `pictures`)."
            )
        width = self.settings.visual_tokens
        return [-1 - place for place in range((number - 1) * width, number * width)]

    def _pixels(self, picture: np.ndarray) -> Tensor:
        return normalise(fit_square(as_tensor(picture)[None], self.frozen.vision.side))[0]

    def _filled(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Filled up to `text_length`, and how many count."""
        filled = torch.zeros(self.settings.text_length, dtype=torch.long)
        filled[: len(ids)] = torch.tensor(ids)
        return filled, torch.tensor(len(ids))

    @staticmethod
    def collate(examples: list[GILLExample]) -> dict[str, Tensor]:
        """Examples as tensors by name."""
        return {name: torch.stack([getattr(e, name) for e in examples]) for name in GILLExample.__dataclass_fields__}

    def batch(self, raw: dict[str, Tensor]) -> GILLBatch:
        """What the model takes."""
        pooled, targets = self.frozen.vision.seen(raw["pixels"]), self.frozen.targets(raw["text"])
        most = raw["shown"].shape[1]
        there = torch.arange(most, device=pooled.device) < raw["count"][:, None]
        shown = pooled.new_zeros(*there.shape, pooled.shape[-1])
        if bool(there.any()):
            shown[there] = self.frozen.vision.seen(raw["shown"][there])
        return GILLBatch(
            raw["ids"], raw["length"], raw["talk"], raw["talk_length"], raw["due"], shown, pooled, targets,
            raw["joined"],
        )  # fmt: skip

    def write(self, state: dict[str, Tensor], path: Path) -> None:
        """The learned parts as one file."""
        tensors = {name.removeprefix(PARTS): value.float().cpu() for name, value in state.items()}
        parts = LearnedParts.from_tensors(self.config, tensors)
        save_gill(parts, path, STORED[self.settings.stored], overwrite=True)
