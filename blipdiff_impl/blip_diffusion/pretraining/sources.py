"""Where a stage's samples come from: shards, or the toy world."""

from __future__ import annotations

from ...training.samples import Source
from ...training.settings import StageSettings
from .settings import TOY, Stage1Settings


def open_source(settings: StageSettings) -> Source:
    """The training data that the settings name.

    Raises:
        SubjectError: none, or a file that is no shard.
    """
    if settings.shards == (TOY,):
        from .toy import ToyWorld

        return ToyWorld(settings.toy_count, describe_look=isinstance(settings, Stage1Settings))
    from ...training.shards import Shards

    return Shards(settings.shards)
