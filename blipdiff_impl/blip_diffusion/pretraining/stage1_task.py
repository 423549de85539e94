"""The first stage as the trainer sees it: samples to batches, the model, and the file that comes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...prompts.tokenizers import WordPieceTokenizer
from ...training.samples import Sample
from ..checkpoints import write_single_file
from .initial import load_initial
from .parts import FrozenParts, subject_encoder_part
from .pictures import crop_for_tower
from .settings import Stage1Settings
from .stage1_model import Stage1Batch, Stage1Model

_UNLIMITED = 1_000_000


@dataclass(frozen=True)
class Stage1Example:
    """One sample, ready: pixels `[3, S, S]`, word pieces and mask `[T]`, chances `[2]`."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    chances: Tensor


class CaptionPieces:
    """Captions to word pieces of one length: cut with `[SEP]` kept last, or padded."""

    def __init__(self, vocabulary: list[str], length: int):
        self._tokenizer = WordPieceTokenizer(vocabulary, _UNLIMITED)
        self._length = length

    def __call__(self, caption: str) -> tuple[Tensor, Tensor]:
        """Ids and mask, int64 `[T]`."""
        ids = self._tokenizer.ids([caption])[0]
        if len(ids) > self._length:
            ids = [*ids[: self._length - 1], ids[-1]]
        padding = self._length - len(ids)
        return torch.tensor(ids + [0] * padding), torch.tensor([1] * len(ids) + [0] * padding)


class Stage1Task:
    """See the module, and `training.task` for what a task is."""

    result = "subject_encoder.safetensors"
    slow: tuple[str, ...] = ()
    vectors_decay = False  # as BLIP-2

    def __init__(self, settings: Stage1Settings):
        self.settings = settings
        self.initial = load_initial(settings)
        self.model = Stage1Model(self.initial.encoder, settings, self.initial.caption_start)
        self.model.image_norm.requires_grad_(settings.train_image_norm)
        self.frozen = FrozenParts(self.initial.encoder.visual_encoder, None, 1.0)
        self._pieces = CaptionPieces(
            self.initial.vocabulary, min(settings.text_length, self.initial.config.qformer.max_position_embeddings)
        )

    def prepare(self, sample: Sample, rng: np.random.Generator) -> Stage1Example:
        """Draw what is left to chance for one sample."""
        size = self.initial.config.image_tower.image_size
        pixels = crop_for_tower(sample.picture, size, self.settings.crop_low, self.settings.flip, rng)
        caption = sample.captions[rng.integers(len(sample.captions))]
        ids, mask = self._pieces(caption)
        return Stage1Example(pixels, ids, mask, torch.from_numpy(rng.uniform(size=2)))

    @staticmethod
    def collate(examples: list[Stage1Example]) -> dict[str, Tensor]:
        """Examples as tensors by name."""
        return {name: torch.stack([getattr(e, name) for e in examples]) for name in Stage1Example.__dataclass_fields__}

    def batch(self, raw: dict[str, Tensor]) -> Stage1Batch:
        """What the model takes."""
        return Stage1Batch(self.frozen.features(raw["pixels"]), raw["ids"], raw["mask"], raw["chances"])

    def write(self, state: dict[str, Tensor], path: Path) -> None:
        """The subject encoder as a file; its projection is as it started."""
        part = subject_encoder_part(self.initial, self.frozen, state)
        write_single_file(path, {"subject_encoder": part}, self.initial.config, self.initial.vocabulary, overwrite=True)
