"""Settings that the trainer itself reads; a method's stages add their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import SubjectError, shown
from ..settings import MAX_SEED, require_in_range, require_one_of

PRECISIONS = ("no", "bf16", "fp16")
OPTIMISERS = ("adamw", "muon")


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What every stage of every method shares.

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

    stage: ClassVar[int | str]
    """What a settings file calls this kind."""

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
        for name, (low, high) in _BETWEEN.items():
            require_in_range(name, getattr(self, name), low, high)
        require_one_of("precision", self.precision, PRECISIONS)
        require_one_of("optimiser", self.optimiser, OPTIMISERS)
        for part in self.fresh:
            require_one_of("fresh", part, ("qformer", "text_encoder", "unet"))
        if self.batch_size % self.accumulation:
            raise SubjectError(
                f"batch_size = {self.batch_size} cannot be divided into accumulation = {self.accumulation} parts."
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise SubjectError(f"betas = {shown(self.betas)} is not possible; give two numbers from 0 to below 1.")


MOST_STEPS = 10**8 - 1  # steps have eight digits in the names of checkpoints
_BETWEEN = {
    "toy_count": (1, 10**9), "batch_size": (1, 10**6), "accumulation": (1, 10**6), "steps": (1, MOST_STEPS),
    "warm_up": (0, MOST_STEPS), "learning_rate": (0, 1), "last_rate": (0, 1), "epsilon": (0, 1),
    "weight_decay": (0, 1000),
    "clip": (0, 1e9), "seed": (0, MAX_SEED), "workers": (0, 1024), "threads": (0, 1024), "log_every": (1, MOST_STEPS),
    "save_every": (1, MOST_STEPS), "keep": (1, MOST_STEPS),
    "crop_low": (0.01, 1), "flip": (0, 1), "dropout": (0, 0.9), "ema_decay": (0, 0.99999),
}  # fmt: skip
