"""What a method hands to the trainer: a task, with the model it trains and the parts that stay as they are.

A task of any method fits that has these names; nothing is inherited or registered. `Example` is one prepared sample,
`Batch` what the model takes; the trainer looks into neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from .samples import Sample
from .settings import StageSettings

Example = TypeVar("Example")
Prepared = TypeVar("Prepared", covariant=True)
Batch = TypeVar("Batch", covariant=True)


class Preparer(Protocol[Prepared]):
    """Makes examples of samples."""

    def prepare(self, sample: Sample, rng: np.random.Generator) -> Prepared:
        """One sample, ready to be put together with others. Everything left to chance is drawn from `rng`.

        Raises:
            BrokenSample: this one cannot be used.
        """
        ...


class Frozen(Protocol):
    """Networks that help and are not trained; they are neither stored with the run nor shared between processes."""

    def to(self, device: torch.device) -> object:
        """Move them to where the model is trained."""
        ...


class Task(Protocol[Example, Batch]):
    """What the trainer trains, and what becomes of it."""

    @property
    def settings(self) -> StageSettings:
        """Of the whole run."""
        ...

    @property
    def model(self) -> nn.Module:
        """What is trained, in float32. It takes a `Batch` to losses by name, scalars whose sum is minimised. Its
        `after_step()` is called after each step of the optimiser, without arguments."""
        ...

    @property
    def frozen(self) -> Frozen:
        """What `batch` needs beside the model."""
        ...

    @property
    def result(self) -> str:
        """Name of the file that `write` makes, in the folder of the run."""
        ...

    @property
    def slow(self) -> tuple[str, ...]:
        """Beginnings of the names of those weights that learn at `encoder_rate` times the rate, where the settings have
        one."""
        ...

    @property
    def vectors_decay(self) -> bool:
        """Whether biases, norms and single numbers have weight decay too."""
        ...

    def prepare(self, sample: Sample, rng: np.random.Generator) -> Example:
        """As `Preparer` says."""
        ...

    def collate(self, examples: list[Example]) -> dict[str, Tensor]:
        """Examples as tensors by name, on the CPU. Runs in the processes that read samples."""
        ...

    def batch(self, raw: dict[str, Tensor]) -> Batch:
        """What the model takes, of collated tensors that lie on the model's device."""
        ...

    def write(self, state: dict[str, Tensor], path: Path) -> None:
        """Write the result.

        Args:
            state: weights of the model by name; those of the running mean where there is one.
        """
        ...


class GridSettings(Protocol):
    """Settings that say how often samples are drawn, and how many."""

    @property
    def sample_every(self) -> int:
        """Steps between two grids; 0 is never."""
        ...

    @property
    def sample_count(self) -> int:
        """Samples in a grid."""
        ...


@runtime_checkable
class GridTask(Protocol):
    """A task that shows while it is trained what its model draws."""

    @property
    def settings(self) -> GridSettings:
        """Of the whole run."""
        ...

    def sample(self, state: dict[str, Tensor], samples: list[Sample]) -> np.ndarray:
        """A grid of pictures, uint8 `[H, W, 3]`, one column for each sample.

        Args:
            state: as `Task.write` takes it.
        """
        ...
