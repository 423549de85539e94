"""What the training processes hold of a batch, put together in the order of their numbers."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def process() -> tuple[int, int]:
    """This process's number and how many train together."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather(x: Tensor) -> Tensor:
    """`[B, ...]` of every process as `[processes * B, ...]`, with gradients to where each part came from.

    The sum over processes of what flows back makes training on several exactly that of one with the whole batch. The
    release's gathered features carry no gradient at all, not even of the local part, so its gradients are others.
    """
    return _Gather.apply(x) if process()[1] > 1 else x


def gather_values(x: Tensor) -> Tensor:
    """The same without gradients."""
    return _all(x.detach()) if process()[1] > 1 else x.detach()


def total(x: Tensor) -> Tensor:
    """The sum of a number over all processes, without gradients."""
    x = x.detach().clone()
    if process()[1] > 1:
        dist.all_reduce(x)
    return x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context, x: Tensor) -> Tensor:
        context.rows = len(x)
        return _all(x)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.narrow(0, process()[0] * context.rows, context.rows)


def _all(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(process()[1])]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
