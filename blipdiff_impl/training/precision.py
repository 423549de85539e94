"""In which precision a device trains, float32 masters behind lower-precision weights, and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import SubjectError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
AUTO = "auto"


def choose_precision(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The precision of the UNet's arithmetic (masters are float32 in any case), and why, for the log.

    Raises:
        SubjectError: a name that is none of these.
    """
    if name not in (AUTO, *PRECISIONS):
        raise SubjectError(f"There is no precision {name!r}; choose one of {', '.join((AUTO, *PRECISIONS))}.")
    if name != AUTO:
        return PRECISIONS[name], f"{name} as chosen"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "bf16, which this GPU computes natively"
        return torch.float32, "fp32, because this GPU has no bf16"
    return torch.float32, f"fp32 on {device.type}"


def without_autocast(device: torch.device) -> torch.autocast:
    """A context in which a network computes in the type of its own weights, whatever the training around it does."""
    return torch.autocast(device.type, enabled=False)


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
            torch._foreach_copy_(wide, [gradient_of(parameter) for parameter in working])
            for parameter, master, gradient in zip(working, masters, wide, strict=True):
                parameter.grad, master.grad = None, gradient

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the working copies."""
        if self._are_copies:
            torch._foreach_copy_(tuple(self._working), tuple(self.masters))


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """After a backward pass of a loss that the parameter takes part in, as every weight of a UNet does."""
    assert parameter.grad is not None
    return parameter.grad


def forget_activations(blocks: Iterable[nn.Module]) -> None:
    """Make these modules keep only their inputs for the backward pass."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
