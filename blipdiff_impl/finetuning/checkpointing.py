"""Gradient checkpointing (Chen et al. 2016): forget what happens inside blocks, and compute it again when needed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def forget_activations(blocks: Iterable[nn.Module]) -> None:
    """Make these modules keep only their inputs for the backward pass."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
