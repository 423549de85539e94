"""The host's CLIP_VISION by a configuration of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from comfy.clip_vision import ClipVisionModel


def clip_vision_of(config: Mapping) -> ClipVisionModel:
    """A CLIP_VISION without weights; older hosts read its configuration from a file only."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(dict(config)), encoding="utf-8")
        return ClipVisionModel(str(path))
