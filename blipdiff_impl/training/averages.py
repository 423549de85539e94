"""The running mean of what is trained, by name, so that a checkpoint can hold it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..finetuning.average import RunningMean


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
        """Go on from `state` after `seen` updates."""
        self._seen = seen
        for name, mean in self.state().items():
            mean.copy_(state[name])
