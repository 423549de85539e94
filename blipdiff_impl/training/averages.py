"""Running means of weights while they are trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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


class AveragedWeights(RunningMean):
    """Exponential moving average of a module's trained parameters."""

    def __init__(self, model: nn.Module, decay: float):
        named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        super().__init__(list(named.values()), decay)
        self._names = list(named)

    def state(self) -> dict[str, Tensor]:
        """The means by parameter name (not copied)."""
        return dict(zip(self._names, self.means, strict=True))

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor], seen: int) -> None:
        """Resume from `state` after `seen` updates."""
        self._seen = seen
        for name, mean in self.state().items():
            mean.copy_(state[name])
