"""Memory for a fine-tuning: asked of the host before, and explained to the artist if it was not enough."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import comfy.model_management as mm
import torch

from .....blipdiff_impl.blip_diffusion.finetuning.memory import UNetSize, bytes_needed, plan, too_much
from .....blipdiff_impl.blip_diffusion.finetuning.settings import FinetuneSettings
from .....blipdiff_impl.errors import OutOfMemory

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

log = logging.getLogger(__name__)


class Room:
    """What one fine-tuning needs on the host's device."""

    def __init__(self, model: ModelPatcher, settings: FinetuneSettings, resolution: int, precision: torch.dtype):
        self._need = (_size(model), settings, resolution, precision)
        self._device = mm.get_torch_device()

    def make(self, reason: str) -> bool:
        """Have the host free memory; whether gradients have to be checkpointed in what there is then.

        Args:
            reason: why this precision, for the log.
        """
        with torch.inference_mode():  # as the host always is when it moves its models
            mm.free_memory(bytes_needed(*self._need, checkpointing=False), self._device)
            mm.soft_empty_cache()
        chosen = plan(*self._need, free=int(mm.get_free_memory(self._device)))
        _, settings, *_ = self._need
        log.info("Fine-tuning (%s, %d steps) in %s; %s.", settings.method, settings.steps, reason, chosen.reason)
        return chosen.checkpointing

    @contextmanager
    def explained(self) -> Generator[None, None, None]:
        """Turns "out of memory" inside the block into a sentence with settings that fit; other errors pass."""
        try:
            yield
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            ask = mm.get_total_memory if self._device.type == "cuda" else mm.get_free_memory
            raise OutOfMemory(too_much(*self._need, free=int(ask(self._device)))) from None
        finally:
            mm.soft_empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """PyTorch has a class of its own for devices, and a sentence for main memory."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)


def _size(model: ModelPatcher) -> UNetSize:
    weights = model.model_state_dict("diffusion_model.")
    attention = [tensor for key, tensor in weights.items() if ".attn" in key and tensor.ndim == 2]
    return UNetSize(
        sum(tensor.numel() for tensor in weights.values()),
        sum(sum(tensor.shape) for tensor in attention),
        model.model.model_config.unet_config["model_channels"],
    )
