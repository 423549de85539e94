"""The order of samples: position in the run to number of the sample, from the seed alone.

A run that goes on starts at its position; nothing has to be read up to there. Groups (shards) are shuffled, and
samples within `TOGETHER` groups, so that a few files are read at a time.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate

import numpy as np

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
