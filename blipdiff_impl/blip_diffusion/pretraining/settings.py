"""Settings of both stages. Defaults are the paper's; where it is silent, BLIP-2's (first stage) or the author's."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SubjectError
from ..ranges import require_in_range

PRECISIONS = ("no", "bf16", "fp16")
OPTIMISERS = ("adamw", "muon")
TOY = "toy"


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What both stages share.

    Attributes:
        model: checkpoint of any layout that the sizes and first weights come from.
        fresh: parts of it that start untrained: "qformer", "text_encoder", "unet".
        bert: a BERT `.safetensors` whose layers a fresh Q-Former starts from; empty for none.
        shards: tar files (or one pattern such as `data/*.tar`); the word "toy" for the procedural toy world.
        toy_count: pairs of the toy world that are trained on.
        out: folder of checkpoints, log and result.
        batch_size: samples of one optimiser step, over all processes and accumulated parts together.
        accumulation: parts that a process computes a step in.
        steps, warm_up: optimiser steps in all, and those of the linear rise at the start.
        learning_rate, last_rate: peak and end of the cosine; equal values keep it constant.
        optimiser: "adamw" (the paper's), or "muon" for matrices with AdamW for the rest.
        betas, epsilon, weight_decay, clip: of AdamW; the gradient's largest joint length (0: any).
        train_image_norm: train the norm behind the frozen tower, as the author's code does.
        crop_low, flip: smallest share of the area that a random crop keeps; chance of a mirrored picture.
        dropout: inside Q-Former and projection.
        ema_decay: of a running mean of the weights, which then is the result; 0 is off.
        precision: "no" (float32), "bf16" or "fp16" mixed precision.
        seed: of everything that is drawn.
        workers: processes that read and prepare samples; 0 does it in the training process.
        threads: CPU threads of a training process; 0 leaves PyTorch's choice.
        log_every, save_every, keep: steps between lines of the log and between checkpoints; checkpoints kept.
        tensorboard: also write scalars (and pictures) for TensorBoard.
    """

    model: str = "toybox"
    fresh: tuple[str, ...] = ()
    bert: str = ""
    shards: tuple[str, ...] = ()
    toy_count: int = 80_000
    out: str = "pretraining"
    batch_size: int = 16
    accumulation: int = 1
    steps: int = 500_000
    warm_up: int = 0
    learning_rate: float = 2e-6
    last_rate: float = 2e-6
    optimiser: str = "adamw"
    betas: tuple[float, ...] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 20.0
    train_image_norm: bool = True
    crop_low: float = 0.9
    flip: float = 0.5
    dropout: float = 0.1
    ema_decay: float = 0.0
    precision: str = "no"
    seed: int = 1337
    workers: int = 0
    threads: int = 0
    log_every: int = 50
    save_every: int = 10_000
    keep: int = 2
    tensorboard: bool = False

    def __post_init__(self):
        for name, low in _AT_LEAST.items():
            require_in_range(name, getattr(self, name), low)
        for name, (low, high) in _BETWEEN.items():
            require_in_range(name, getattr(self, name), low, high)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("optimiser", self.optimiser, OPTIMISERS)
        for part in self.fresh:
            _one_of("fresh", part, ("qformer", "text_encoder", "unet"))
        if self.batch_size % self.accumulation:
            raise SubjectError(
                f"batch_size = {self.batch_size} cannot be divided into accumulation = {self.accumulation} parts."
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise SubjectError(f"betas = {self.betas} is not possible; give two numbers from 0 to below 1.")


@dataclass(frozen=True, kw_only=True)
class Stage1Settings(StageSettings):
    """First stage, multimodal representation learning.

    Attributes:
        text_length: word pieces of a caption; longer ones are cut.
        embedding_size: width of what is compared in contrast.
        label_smoothing: of contrast and captioning.
        temperature, temperature_low, temperature_high: start and range of the learned divisor.
    """

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
        require_in_range("embedding_size", self.embedding_size, 1)
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
        for name in ("min_snr", "mask_weight", "encoder_rate", "sample_every"):
            require_in_range(name, getattr(self, name), 0)
        for name in ("sample_count", "sample_steps", "sample_guidance"):
            require_in_range(name, getattr(self, name), 1)


ABLATIONS = {
    "full": {},
    "no-pretraining": {"stage1": ""},
    "frozen-text-encoder": {"train_text_encoder": False},
    "no-subject-text": {"subject_text": False},
    "no-subject-dropping": {"subject_drop": 0.0},
}
"""Rows of the paper's Table 2 as settings of the second stage."""

_AT_LEAST = {
    "toy_count": 1, "batch_size": 1, "accumulation": 1, "steps": 1, "warm_up": 0, "learning_rate": 0, "last_rate": 0,
    "epsilon": 0, "weight_decay": 0, "clip": 0, "seed": 0, "workers": 0, "threads": 0, "log_every": 1,
    "save_every": 1, "keep": 1,
}  # fmt: skip
_BETWEEN = {"crop_low": (0.01, 1), "flip": (0, 1), "dropout": (0, 0.9), "ema_decay": (0, 0.99999)}


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SubjectError(f"{name} = {value!r} is unknown; choose one of {', '.join(choices)}.")
