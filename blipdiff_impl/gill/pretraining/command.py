"""The stage for the command `pretrain`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...training.settings import StageSettings
from .settings import GILLSettings


def train(settings: GILLSettings) -> Path:
    """Train to the end, resumed from the newest checkpoint; returns the file that was written."""
    from ...training.shards import Shards
    from ...training.trainer import train_stage
    from .task import GILLTask

    return train_stage(settings, lambda each: Shards(each.shards), GILLTask)


STAGES: dict[type[StageSettings], Callable[[Any], Path]] = {GILLSettings: train}
