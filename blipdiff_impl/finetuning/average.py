"""A running mean of weights while they are trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class RunningMean:
    """Exponential moving average; over the first steps a plain mean, so that the start does not linger in it."""

    def __init__(self, tensors: Sequence[Tensor], decay: float):
        self._tensors = list(tensors)
        self._decay = decay
        self._seen = 0
        self.means = [tensor.detach().clone() for tensor in tensors]

    @torch.no_grad()
    def update(self) -> None:
        """Take in what the tensors are now."""
        self._seen += 1
        decay = min(self._decay, 1 - 1 / self._seen)
        torch._foreach_lerp_(self.means, [tensor.detach() for tensor in self._tensors], 1 - decay)
