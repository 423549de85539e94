"""The stage for the command `pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .settings import MSSettings

if TYPE_CHECKING:
    from ...training.samples import Source
    from .base import Base


def train(settings: MSSettings, base: Base | None = None, source: Source | None = None) -> Path:
    """Train to the end, resumed from the newest checkpoint; returns the adapter's file.

    Args:
        base: the frozen networks, where they are not in folders that the settings name.
        source: the data, where it is not in shards.
    """
    from ...training.shards import Shards
    from ...training.trainer import train_stage
    from .task import MSTask

    return train_stage(settings, lambda each: source or Shards(each.shards), lambda each: MSTask(each, base))
