"""Weights in float32 behind working copies of lower precision (Micikevicius et al. 2018, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

_AT_ONCE = 64  # gradients widened together: few launches, and never all gradients twice in memory


class MasterWeights:
    """Takes parameters in float32 and leaves them in `precision`, to be computed with.

    A step of 5e-6 is lost in bfloat16; it adds up in the masters. In float32 the masters are the parameters themselves.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], precision: torch.dtype):
        self._working = list(parameters)
        self.masters = self._working
        self._are_copies = precision != torch.float32 and bool(self._working)
        if not self._are_copies:
            return
        self.masters = [nn.Parameter(parameter.detach()) for parameter in self._working]
        for parameter in self._working:
            parameter.data = parameter.detach().to(precision)

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Move the gradients from the working copies to the masters, in float32."""
        if not self._are_copies:
            return
        for start in range(0, len(self._working), _AT_ONCE):
            working, masters = (part[start : start + _AT_ONCE] for part in (self._working, self.masters))
            wide = [torch.empty_like(master) for master in masters]
            torch._foreach_copy_(wide, [parameter.grad for parameter in working])
            for parameter, master, gradient in zip(working, masters, wide, strict=True):
                parameter.grad, master.grad = None, gradient

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the working copies."""
        if self._are_copies:
            torch._foreach_copy_(self._working, self.masters)
