"""Settings of both stages. Defaults are the paper's; where it is silent, BLIP-2's (first stage) or the author's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import SubjectError
from ...settings import require_in_range
from ...training.settings import MOST_STEPS, StageSettings

TOY = "toy"


@dataclass(frozen=True, kw_only=True)
class Stage1Settings(StageSettings):
    """First stage, multimodal representation learning.

    Attributes:
        text_length: word pieces of a caption; longer ones are cut.
        embedding_size: width of what is compared in contrast.
        label_smoothing: of contrast and captioning.
        temperature, temperature_low, temperature_high: start and range of the learned divisor.
    """

    stage: ClassVar[int | str] = 1
    batch_size: int = 2320
    steps: int = 250_000
    warm_up: int = 2000
    learning_rate: float = 1e-4
    last_rate: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip: float = 0.0
    crop_low: float = 0.5
    text_length: int = 32
    embedding_size: int = 256
    label_smoothing: float = 0.1
    temperature: float = 0.07
    temperature_low: float = 0.001
    temperature_high: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        require_in_range("text_length", self.text_length, 3, 512)
        require_in_range("embedding_size", self.embedding_size, 1, 65536)
        require_in_range("label_smoothing", self.label_smoothing, 0, 0.99)
        require_in_range("temperature", self.temperature, self.temperature_low, self.temperature_high)
        require_in_range("temperature_low", self.temperature_low, 1e-6)
        if self.batch_size // self.accumulation < 2:
            raise SubjectError(
                f"batch_size = {self.batch_size} in {self.accumulation} parts leaves one pair at a time; contrast "
                "needs at least two."
            )


@dataclass(frozen=True, kw_only=True)
class Stage2Settings(StageSettings):
    """Second stage, subject representation learning by prompted context generation.

    Attributes:
        stage1: file that the first stage wrote; empty starts without it (Table 2, row 2).
        train_text_encoder: False freezes it (Table 2, row 3).
        subject_text: False keeps the category from the Q-Former (Table 2, row 4).
        subject_drop: share of samples without subject vectors; 0 is Table 2, row 5.
        released_share: share of prompts in the release's form for generation, `a [subject] {category} {text}`
            repeated 1, 2, 3 or 20 times; the others have the paper's, `{text}, the {category} is [subject]`.
        empty_share: share of samples with an empty prompt, for guidance where no trained UNet brings it.
        min_snr: clamp of the signal-to-noise weights (Hang et al. 2023, the paper's gamma); 0 is off.
        mask_weight: what the loss counts more inside the subject's mask.
        encoder_rate: learning rate of Q-Former and projection, as a multiple.
        sample_every: steps between grids of generated pictures; 0 is never.
        sample_count, sample_steps, sample_guidance: their number, and how they are made.
    """

    stage: ClassVar[int | str] = 2
    stage1: str = ""
    train_text_encoder: bool = True
    subject_text: bool = True
    subject_drop: float = 0.15
    released_share: float = 0.0
    empty_share: float = 0.0
    min_snr: float = 0.0
    mask_weight: float = 0.0
    encoder_rate: float = 1.0
    sample_every: int = 10_000
    sample_count: int = 8
    sample_steps: int = 50
    sample_guidance: float = 7.5

    def __post_init__(self):
        super().__post_init__()
        for name in ("subject_drop", "released_share", "empty_share"):
            require_in_range(name, getattr(self, name), 0, 1)
        for name, high in (("min_snr", 1e6), ("mask_weight", 1e6), ("encoder_rate", 1e6), ("sample_every", MOST_STEPS)):
            require_in_range(name, getattr(self, name), 0, high)
        for name, high in (("sample_count", 1000), ("sample_steps", 1000), ("sample_guidance", 100)):
            require_in_range(name, getattr(self, name), 1, high)


ABLATIONS = {
    "full": {},
    "no-pretraining": {"stage1": ""},
    "frozen-text-encoder": {"train_text_encoder": False},
    "no-subject-text": {"subject_text": False},
    "no-subject-dropping": {"subject_drop": 0.0},
}
"""Rows of the paper's Table 2 as settings of the second stage."""

STAGES = {kind.stage: kind for kind in (Stage1Settings, Stage2Settings)}
