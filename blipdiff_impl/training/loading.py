"""Samples by their position in the run, prepared and put together for one process.

What is drawn for a sample depends on the seed and on its position alone: not on the process that prepares it, nor on
what was drawn before. So a run goes on anywhere, and several processes draw what one would.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ..errors import SubjectError
from .order import Order
from .samples import BrokenSample, Source
from .settings import TOY, Stage1Settings, StageSettings

_PATIENCE = 100  # broken samples in a row after which something else is wrong

log = logging.getLogger(__name__)


def open_source(settings: StageSettings) -> Source:
    """The training data that the settings name.

    Raises:
        SubjectError: none, or a file that is no shard.
    """
    if settings.shards == (TOY,):
        from .toy import ToyWorld

        return ToyWorld(settings.toy_count, describe_look=isinstance(settings, Stage1Settings))
    from .shards import Shards

    return Shards(settings.shards)


class Positions(Dataset):
    """Prepared examples by position. A broken sample is named once; the next one in the data takes its place."""

    def __init__(self, source: Source, task, seed: int):
        self._source, self._task, self._seed = source, task, seed
        self.order = Order(source.groups, seed)
        self._named: set[int] = set()

    def __getitem__(self, position: int):
        index = self.order[position]
        for _ in range(_PATIENCE):
            try:
                rng = np.random.default_rng((self._seed, 3, position))
                return self._task.prepare(self._source[index], rng)
            except BrokenSample as error:
                self._name(index, error)
                reason, index = error, (index + 1) % self.order.count
        raise SubjectError(f"{_PATIENCE} samples in a row cannot be used; the last one: {reason}") from reason

    def _name(self, index: int, error: BrokenSample) -> None:
        if index not in self._named:
            self._named.add(index)
            log.warning("Left out: %s", error)


@dataclass(frozen=True)
class Share:
    """Which positions of each step one process computes, part by part.

    Attributes:
        batch: samples of a step over all processes; parts: those that a process computes one after the other.
    """

    batch: int
    parts: int
    process: int = 0
    processes: int = 1

    def __post_init__(self):
        if self.batch % (self.parts * self.processes):
            raise SubjectError(
                f"batch_size = {self.batch} cannot be divided among {self.processes} processes with accumulation = "
                f"{self.parts}; choose a multiple of {self.parts * self.processes}."
            )

    def positions(self, step: int, part: int) -> range:
        """Of optimiser step `step`, counted from 0."""
        size = self.batch // (self.parts * self.processes)
        first = step * self.batch + (part * self.processes + self.process) * size
        return range(first, first + size)


class _Parts:
    """The batch sampler: positions of every part from one step to another."""

    def __init__(self, share: Share, first: int, last: int):
        self._share, self._steps = share, range(first, last)

    def __len__(self) -> int:
        return len(self._steps) * self._share.parts

    def __iter__(self) -> Iterator[range]:
        return (self._share.positions(step, part) for step in self._steps for part in range(self._share.parts))


def make_loader(positions: Positions, collate, share: Share, first: int, last: int, workers: int) -> DataLoader:
    """Parts of the steps `first` .. `last` - 1, in order."""
    return DataLoader(
        positions, batch_sampler=_Parts(share, first, last), collate_fn=collate, num_workers=workers, pin_memory=False
    )
