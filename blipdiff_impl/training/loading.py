"""Samples by their position in the run, prepared and put together for one process.

What is drawn for a sample depends on the seed and on its position alone: not on the process that prepares it, nor on
what was drawn before. So a run resumes anywhere, and several processes draw what one would. A run that resumes starts
at its position; nothing has to be read up to there. Groups (shards) are shuffled, and samples within `TOGETHER` groups,
so that a few files are read at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import SubjectError
from .samples import BrokenSample, Source
from .task import Example, Preparer

TOGETHER = 8


class Order:
    """Each sample once an epoch, without end.

    Args:
        groups: samples in each group, all in all at least one.
    """

    def __init__(self, groups: list[int], seed: int):
        self._groups, self._seed = groups, seed
        self._starts = [0, *accumulate(groups)][:-1]
        self.count = sum(groups)
        self._block = lru_cache(maxsize=4)(self._shuffled)
        self._layout = lru_cache(maxsize=2)(self._shuffled_groups)

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        blocks, ends = self._layout(epoch)
        block = int(np.searchsorted(ends, place, side="right"))
        return int(self._block(epoch, block)[place - (ends[block - 1] if block else 0)])

    def _shuffled_groups(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Groups of each block, and the place after each block's last sample."""
        order = np.random.default_rng((self._seed, 1, epoch)).permutation(len(self._groups))
        blocks = [order[start : start + TOGETHER] for start in range(0, len(order), TOGETHER)]
        return blocks, np.cumsum([sum(self._groups[group] for group in block) for block in blocks])

    def _shuffled(self, epoch: int, block: int) -> np.ndarray:
        groups = self._layout(epoch)[0][block]
        members = [np.arange(self._starts[group], self._starts[group] + self._groups[group]) for group in groups]
        return np.random.default_rng((self._seed, 2, epoch, block)).permutation(np.concatenate(members))


_PATIENCE = 100  # broken samples in a row after which something else is wrong

log = logging.getLogger(__name__)


class Positions(Dataset[Example]):
    """Prepared examples by position. A broken sample is named once; the next one in the data takes its place."""

    def __init__(self, source: Source, task: Preparer[Example], seed: int):
        self._source, self._task, self._seed = source, task, seed
        self.order = Order(source.groups, seed)
        self._named: set[int] = set()

    def __getitem__(self, index: int) -> Example:
        """The example at this position of the run."""
        number = self.order[index]
        for _ in range(_PATIENCE):
            try:
                rng = np.random.default_rng((self._seed, 3, index))
                return self._task.prepare(self._source[number], rng)
            except BrokenSample as error:
                self._name(number, error)
                reason, number = error, (number + 1) % self.order.count
        raise SubjectError(f"{_PATIENCE} samples in a row cannot be used; the last one: {reason}") from reason

    def _name(self, number: int, error: BrokenSample) -> None:
        if number not in self._named:
            self._named.add(number)
            log.warning("Left out: %s", error)


@dataclass(frozen=True)
class BatchShare:
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

    def __init__(self, share: BatchShare, first: int, last: int):
        self._share, self._steps = share, range(first, last)

    def __len__(self) -> int:
        return len(self._steps) * self._share.parts

    def __iter__(self) -> Iterator[list[int]]:
        return (list(self._share.positions(step, part)) for step in self._steps for part in range(self._share.parts))


def make_loader(
    positions: Positions[Example],
    collate: Callable[[list[Example]], dict[str, Tensor]],
    share: BatchShare,
    first: int,
    last: int,
    workers: int,
) -> DataLoader[Any]:
    """Parts of the steps `first` .. `last` - 1, in order.

    Args:
        collate: see `Task.collate`.
        workers: processes that read samples; 0 reads them in this one.
    """
    return DataLoader(
        positions, batch_sampler=_Parts(share, first, last), collate_fn=collate, num_workers=workers, pin_memory=False
    )
