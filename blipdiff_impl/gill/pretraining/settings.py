"""Settings of GILL's training; the defaults are the published ones (docs/method.md 14.10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...errors import SubjectError
from ...settings import require_in_range, require_one_of
from ...training.settings import MOST_STEPS, StageSettings

STORED = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class GILLSettings(StageSettings):
    """Three losses on a frozen language model, picture encoder and text encoder.

    Attributes:
        language_model, vision_model, text_encoder: folders of transformers: an OPT, a CLIP (its vision model), and the
            text encoder whose output the mapper learns to give.
        vision_cells: 0 for CLIP's class token alone, as published; else the means of its patches in so many cells a
            side stand behind it.
        visual_tokens: positions that a picture takes.
        retrieval_width: of the space in which texts and pictures are compared.
        mapper_width, mapper_heads, mapper_layers, mapper_feed_forward: sizes of the mapper; encoder and decoder have
            the same number of layers.
        text_length: tokens of a caption with the eight; the end of longer ones is cut. A conversation that takes more
            positions, with the eight and its pictures, is left out.
        pictures: most pictures in a conversation.
        forced: chance that a conversation's last answer is left out, so that the eight stand right behind the question.
        joined: chance that two pairs make one sequence, drawn for each loss and step.
        word_weight: of the words' cross-entropy beside retrieval and generation.
        tenth_every: steps after which the learning rate falls to a tenth, again and again; 0 leaves the cosine.
        row_norm: length that the rows of [IMG0] to [IMG7] are brought to, in mean lengths of the other words.
        stored: type of the weights in the file that comes out: "bf16" as published, "fp16" or "fp32".
    """

    stage: ClassVar[int | str] = "gill"
    language_model: str = ""
    vision_model: str = ""
    text_encoder: str = ""
    batch_size: int = 200
    steps: int = 20_000
    warm_up: int = 2000
    learning_rate: float = 1e-3
    last_rate: float = 1e-3
    tenth_every: int = 10_000
    betas: tuple[float, ...] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float = 1.0
    crop_low: float = 1.0
    flip: float = 0.0
    precision: str = "bf16"
    vision_cells: int = 0
    visual_tokens: int = 4
    retrieval_width: int = 256
    mapper_width: int = 512
    mapper_heads: int = 4
    mapper_layers: int = 4
    mapper_feed_forward: int = 2048
    text_length: int = 32
    pictures: int = 0
    forced: float = 0.0
    joined: float = 0.5
    word_weight: float = 0.5
    row_norm: float = 1.0
    stored: str = "bf16"

    def __post_init__(self):
        super().__post_init__()
        for name in ("language_model", "vision_model", "text_encoder"):
            if not getattr(self, name):
                raise SubjectError(f"{name} is not set. Name the folder of transformers that holds it.")
        require_in_range("tenth_every", self.tenth_every, 0, MOST_STEPS)
        require_in_range("text_length", self.text_length, 10, 2048)
        require_in_range("pictures", self.pictures, 0, 16)
        require_in_range("vision_cells", self.vision_cells, 0, 16)
        require_in_range("forced", self.forced, 0, 1)
        require_one_of("stored", self.stored, tuple(STORED))
        require_in_range("joined", self.joined, 0, 1)
        require_in_range("word_weight", self.word_weight, 0, 1000)
        require_in_range("row_norm", self.row_norm, 0.01, 100)
        if self.crop_low != 1 or self.flip:
            raise SubjectError("GILL is trained on whole pictures as they are: leave out crop_low and flip.")
        if self.batch_size // self.accumulation < 2:
            raise SubjectError(
                f"batch_size = {self.batch_size} in {self.accumulation} parts leaves one pair at a time; retrieval "
                "needs at least two."
            )
