"""An adapter as it travels through sockets: its resampler is a guest of the host's memory manager, the projections to
keys and values stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....blipdiff_impl.attention.boxes import Box
from ....blipdiff_impl.ms_diffusion.adapter import MSAdapter
from ....blipdiff_impl.ms_diffusion.adapter_attention import Subjects
from ....blipdiff_impl.ms_diffusion.checkpoint import open_adapter
from ....blipdiff_impl.ms_diffusion.file_names import TOYBOX_FILE
from ..lent_module import LentModule
from ..weights import load_all

if TYPE_CHECKING:
    from comfy.clip_vision import ClipVisionModel

# One subject in the resampler at released size, generously: 273 rows x 5120 in float32, a few times.
_WORKING_MEMORY = 64 * 2**20


class HostAdapter:
    """An MS_ADAPTER.

    Attributes:
        adapter: the plain adapter. Its resampler lies wherever the host has put it, in float32, as it runs once for a
            picture; the projections are used a layer at a time and stay in the type of the file.
        patcher: the host's handle; caches of the host look for this name.
        clip_vision: the picture encoder that comes with it; None for all but the built-in one.
    """

    def __init__(self, adapter: MSAdapter, clip_vision: ClipVisionModel | None = None):
        adapter.image_proj.float()
        self.adapter, self.clip_vision = adapter, clip_vision
        self._lent = LentModule(adapter.image_proj, _WORKING_MEMORY)
        self.patcher = self._lent.patcher

    def subjects(
        self,
        features: Tensor,
        phrases: Tensor,
        boxes: Sequence[Box],
        strengths: Sequence[float],
        grounded: bool,
        dtype: torch.dtype,
    ) -> Subjects:
        """Keys and values of all layers on the CPU; see `MSAdapter.tokens` and `MSAdapter.subjects`."""
        self._lent.fetch()
        tokens = self.adapter.tokens(features, phrases, boxes, ungrounded=not grounded)
        return self.adapter.subjects(tokens.cpu(), boxes, strengths, dtype)


def load_adapter(path: Path) -> HostAdapter:
    """An adapter from its file; the built-in one with its picture encoder.

    Raises:
        CheckpointError: the file cannot be read, is another kind of model, or does not hold exactly an adapter.
    """
    return HostAdapter(open_adapter(path).load(), _toy_vision() if path == TOYBOX_FILE else None)


def _toy_vision() -> ClipVisionModel:
    """The embedded model's image tower as a CLIP_VISION of the host."""
    from ....blipdiff_impl.toybox.vision import as_clip_vision
    from ..clip_vision import clip_vision_of

    config, weights = as_clip_vision()
    vision = clip_vision_of(config)
    load_all(vision.model, weights, "image tower", vision.patcher)
    return vision
