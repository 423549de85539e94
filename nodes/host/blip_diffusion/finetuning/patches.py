"""What was learned, as patches on a clone of a MODEL: they stack with LoRAs, can be bypassed, leave the base alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy.weight_adapter import LoRAAdapter

from .....blipdiff_impl.blip_diffusion.finetuning.settings import FinetuneSettings
from .....blipdiff_impl.blip_diffusion.finetuning.tuner import Learned
from ..tuned_weights import fingerprint_of_base
from ..tuning_record import TuningRecord, attach_tuning
from .copies import UNET, effective_weights

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def with_learned(model: ModelPatcher, learned: Learned, settings: FinetuneSettings) -> ModelPatcher:
    """A clone of the MODEL that samples with the tuned weights; the MODEL itself where the vectors alone were tuned."""
    if not learned.weights and not learned.factors:
        return model
    patches = _differences(model, learned) | _adapters(learned)
    clone = model.clone()
    clone.add_patches(patches)
    attach_tuning(clone, TuningRecord(patches, learned.steps, settings.method, fingerprint_of_base(model)))
    return clone


def _differences(model: ModelPatcher, learned: Learned) -> dict[str, tuple]:
    """Tuned weight less the weight before, in the type that the weight is stored in; it stays in main memory."""
    if not learned.weights:
        return {}
    types = {key: tensor.dtype for key, tensor in model.model_state_dict(UNET).items()}
    device = learned.vectors.device
    return {
        UNET + name: ("diff", (_kept(learned.weights[name] - before, types[UNET + name]),))
        for name, before in effective_weights(model, UNET, device)
    }


def _kept(change: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # fp16 for bf16 too: the change is added in float32, and bf16 would round it to three digits.
    return change.to("cpu", torch.float32 if dtype == torch.float32 else torch.float16)


def _adapters(learned: Learned) -> dict[str, LoRAAdapter]:
    return {
        f"{UNET}{name}.weight": LoRAAdapter(set(), (f.up.cpu(), f.down.cpu(), f.alpha, None, None, None))
        for name, f in learned.factors.items()
    }
