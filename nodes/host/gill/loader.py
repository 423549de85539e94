"""GILL as a guest of the host's memory manager, and the host's CLIP vision model as what it sees with."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import comfy.model_management as mm
import torch
from torch import Tensor

from ....blipdiff_impl.errors import CheckpointError
from ....blipdiff_impl.gill.pipeline import GILL, load_gill
from ....blipdiff_impl.gill.vision import flattened
from ....blipdiff_impl.settings import require_one_of
from ....blipdiff_impl.weights.fingerprint import fingerprint_of
from ..lent_module import LentModule
from ..weights import WEIGHT_DTYPES
from .model_folder import built_in, checkpoint_path, language_model_path, mapper_path

if TYPE_CHECKING:
    from comfy.clip_vision import ClipVisionModel

_AT_LEAST = 64 * 2**20  # bytes beside keys and values
_VIT_L_14 = (1024, 224)


class HostGILL:
    """A GILL_MODEL. The host moves and evicts its networks like any model, through `patcher`.

    Attributes:
        gill: the plain model, which lies wherever the host has put it.
        of_toy_world: whether it is the built-in one.
        patcher: the host's handle; caches of the host look for this name.
    """

    def __init__(self, gill: GILL, of_toy_world: bool = False):
        self.gill, self.of_toy_world = gill, of_toy_world
        self._lent = LentModule(gill.module, _working_memory(gill))
        self.patcher = self._lent.patcher

    @contextmanager
    def on_device(self) -> Generator[GILL]:
        """The model where it computes; afterwards its room is free for what is drawn with."""
        self._lent.fetch()
        try:
            yield self.gill
        finally:
            self._lent.release()


class HostVision:
    """The host's CLIP_VISION, read behind its last norm (docs/method.md 14.2).

    Raises:
        CheckpointError: it is of another kind than CLIP.
    """

    def __init__(self, clip_vision: ClipVisionModel):
        tower = getattr(getattr(clip_vision, "model", None), "vision_model", None)
        if getattr(clip_vision, "model_type", None) != "clip_vision_model" or tower is None:
            raise CheckpointError(
                f"The CLIP vision model is of the kind {str(getattr(clip_vision, 'model_type', 'unknown'))[:40]}, but "
                "GILL sees with CLIP. Load CLIP ViT-L/14 (openai/clip-vit-large-patch14)."
            )
        self._clip_vision = clip_vision
        self._norm = tower.post_layernorm
        self.width = int(self._norm.weight.shape[0])
        if self.width == _VIT_L_14[0] and clip_vision.image_size != _VIT_L_14[1]:
            raise CheckpointError(
                f"The CLIP vision model is a ViT-L/14 for {clip_vision.image_size} pixels, but GILL was trained with "
                f"the one for {_VIT_L_14[1]}. Load openai/clip-vit-large-patch14."
            )
        # As the host loads it, in 16 bit or not: the same name for both.
        self.fingerprint = fingerprint_of({name: value.half().cpu() for name, value in self._norm.state_dict().items()})

    def pooled(self, pictures: Tensor, squash: bool = False) -> Tensor:
        """See `Tower`."""
        seen = self._clip_vision.encode_image(flattened(pictures), crop=not squash).last_hidden_state
        return self._norm(seen[:, 0].float())


def load_model(
    checkpoint: str, language_model: str, dtype: str = "default", clip_vision: ClipVisionModel | None = None
) -> HostGILL:
    """A GILL_MODEL from files in the model folders.

    Args:
        dtype: one of WEIGHT_DTYPES, for the language model.
        clip_vision: what it sees pictures with.

    Raises:
        CheckpointError: a file is missing or damaged, or they do not belong together.
        SubjectError: an unknown dtype.
    """
    require_one_of("dtype", dtype, WEIGHT_DTYPES)
    path, folder = checkpoint_path(checkpoint), language_model_path(language_model)
    tower = None if clip_vision is None else HostVision(clip_vision)
    gill = load_gill(path, folder, WEIGHT_DTYPES[dtype] or _default_dtype(), tower, mapper_path(checkpoint))
    return HostGILL(gill, checkpoint in built_in())


def _working_memory(gill: GILL) -> int:
    """Bytes of a reply beside the weights, generously: twice keys and values of all positions (2.1 GB of OPT-6.7B in
    16 bit)."""
    sizes = gill.language.sizes
    values = 2 * sizes.layers * sizes.positions * sizes.width
    return _AT_LEAST + 2 * values * gill.language.dtype.itemsize


def _default_dtype() -> torch.dtype:
    """As published where the machine is quick with it; OPT itself was trained in float16."""
    device = mm.text_encoder_device()
    if mm.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16 if mm.should_use_fp16(device) else torch.float32
