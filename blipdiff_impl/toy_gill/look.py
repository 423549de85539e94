"""A second mapper for the toy GILL that keeps the look of a picture's thing. It is not GILL as published.

As published the mapper imitates what the text encoder says of a caption, which has no words for a look here. This one
imitates what it says of the caption with the subject's vectors in it, as BLIP-Diffusion would condition the UNet on the
same picture. All else stays as it was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..blip_diffusion.encoder import SubjectEncoder
from ..gill.checkpoint import open_gill
from ..gill.parts import LearnedParts
from ..gill.pretraining.model import GILLBatch, GILLTraining
from ..gill.pretraining.settings import GILLSettings
from ..gill.pretraining.task import PARTS, GILLExample, GILLTask
from ..gill.replaced_mapper import save_mapper
from ..prompts.tokenizers import WordPieceTokenizer
from ..toy_world import prompts
from ..toy_world.world import CATEGORIES, vocabulary
from ..training.samples import Sample
from .samples import toy_text_encoder

_MAPPER = "gen_text_hidden_fcs."


@dataclass(frozen=True)
class LookExample(GILLExample):
    """One conversation, ready.

    Attributes:
        thing: the picture of the thing, `[3, S, S]`; category: number of its kind.
        row: token ids with room for the thing's vectors, `[77]`; place: of the first of them, -1 without a thing.
    """

    thing: Tensor
    category: Tensor
    row: Tensor
    place: Tensor


class _LookTraining(GILLTraining):
    """The mapper's distance alone, from where GILL's training left it.

    Args:
        path: GILL's learned parts.
    """

    def __init__(self, task: GILLTask, path: Path):
        super().__init__(task.config, task.settings, task.frozen.language, task.frozen.word_norm)
        self.parts.load_state_dict(open_gill(path).load().state_dict())
        for name, weight in self.parts.named_parameters():
            weight.requires_grad_(name.startswith(_MAPPER))

    def forward(self, batch: GILLBatch) -> dict[str, Tensor]:
        return {"generation": self.mapping(batch)}

    def after_step(self) -> None:
        """Nothing: the rows stay."""


class LookTask(GILLTask):
    """See the module.

    Args:
        path: GILL's learned parts.
    """

    result = "look.safetensors"

    def __init__(self, settings: GILLSettings, path: Path):
        super().__init__(settings)
        self.model = _LookTraining(self, path)
        self._subjects, self._text = SubjectEncoder.from_checkpoint("toybox").module, toy_text_encoder()
        self._pieces = WordPieceTokenizer(vocabulary()).batch(list(CATEGORIES))[0]

    def prepare(self, sample: Sample, rng: np.random.Generator) -> LookExample:
        """Draw what is left to chance for one sample."""
        plain = super().prepare(sample, rng)
        there = sample.composite is not None
        row, place = prompts.row(sample.target, 2 if there else None)
        thing = torch.zeros_like(plain.pixels) if sample.composite is None else self._pixels(sample.composite)
        category = CATEGORIES.index(sample.category) if there else 0
        return LookExample(
            **{name: getattr(plain, name) for name in GILLExample.__dataclass_fields__},
            thing=thing, category=torch.tensor(category), row=torch.from_numpy(row), place=torch.tensor(place),
        )  # fmt: skip

    @staticmethod
    def collate(examples: list[LookExample]) -> dict[str, Tensor]:
        """Examples as tensors by name."""
        return {name: torch.stack([getattr(e, name) for e in examples]) for name in LookExample.__dataclass_fields__}

    @torch.no_grad()
    def batch(self, raw: dict[str, Tensor]) -> GILLBatch:
        """What the model takes; targets have the thing's vectors in them."""
        plain = super().batch(raw)
        targets, there = plain.targets.clone(), raw["place"] >= 0
        if bool(there.any()):
            device = raw["category"].device
            ids = self._pieces.to(device)[raw["category"][there]]
            vectors = self._subjects.to(device)(raw["thing"][there], ids, torch.ones_like(ids, dtype=torch.float32))
            places = raw["place"][there, None] + torch.arange(prompts.VECTORS, device=device)
            targets[there] = self._text.to(device)(raw["row"][there], places, vectors).to(targets)
        fields = {name: getattr(plain, name) for name in GILLBatch.__dataclass_fields__}
        return GILLBatch(**(fields | {"targets": targets}))

    def write(self, state: dict[str, Tensor], path: Path) -> None:
        """The mapper as a file, for GILL's learned parts that it was trained with."""
        tensors = {name.removeprefix(PARTS): value.float().cpu() for name, value in state.items()}
        save_mapper(path, LearnedParts.from_tensors(self.config, tensors), torch.float16)
