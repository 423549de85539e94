"""The weights that were tuned for a subject: from a MODEL into the names and shapes of a LoRA file, and back.

What is the subject's own is known from its record; LoRAs stacked on the same MODEL stay out of the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import comfy.lora
import comfy.model_management as mm
import comfy.utils
import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...blipdiff_impl.base_fingerprint import base_fingerprint
from ...blipdiff_impl.errors import SubjectError
from ...blipdiff_impl.stored_weights import restore_change, store_change, store_factors
from ...blipdiff_impl.subject_file import TunedWeights
from .session import Progress
from .tuning_record import TuningRecord, attach_tuning, tuning_of

_UNET = "diffusion_model."
_NAMED = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collected:
    """Weights for a file, and how much of their change it loses: ||stored - change|| / ||change|| over all weights."""

    tuned: TunedWeights
    loss: float


def collect_tuned(model, rank: int | None = None) -> Collected | None:
    """The tuned weights on a MODEL, or None where it carries none.

    A change that was learned as a LoRA is kept as one. Stored in 16 bit, save numbers too small for that.

    Args:
        rank: for changes of whole weights: None keeps them whole, a number stores the closest change of that rank.
    """
    records = list(_records(model))
    if not records:
        return None
    changes: dict[str, list] = {}
    for record in records:
        for key, patch in record.patches.items():
            changes.setdefault(key, []).append(patch)
    names, shapes = (
        _canonical_names(model),
        {key: tensor.shape for key, tensor in model.model_state_dict(_UNET).items()},
    )
    tensors, lost, total = {}, 0.0, 0.0
    progress = Progress(len(changes))
    for done, (key, patches) in enumerate(changes.items()):
        progress.report(done, len(changes))
        stored, change, difference = _stored(names[key], patches, shapes[key], rank)
        tensors |= stored
        lost, total = lost + difference, total + change
    progress.report(len(changes), len(changes))
    newest, steps = records[0], sum(record.steps for record in records)
    tuned = TunedWeights(tensors, steps, newest.method, newest.base_fingerprint)
    return Collected(tuned, (lost / total) ** 0.5 if total else 0.0)


def apply_tuned(model, tuned: TunedWeights):
    """A clone of the MODEL with the weights of a file added, as the host's LoRA loader adds them.

    Raises:
        SubjectError: the MODEL is not one of Stable Diffusion 1.5, or of another size.
    """
    modules = comfy.lora.model_lora_keys_unet(model.model, {})
    unknown = sorted({name.partition(".")[0] for name in tuned.tensors} - modules.keys())
    if unknown:
        raise _unfitting(unknown)
    patches = comfy.lora.load_lora(dict(tuned.tensors), modules, log_missing=False)
    weights = model.model_state_dict(_UNET)
    misshapen = [key for key, patch in patches.items() if key not in weights or not _fits(patch, weights[key].shape)]
    if misshapen:
        raise _unfitting(misshapen)
    found = fingerprint_of_base(model)
    if tuned.base_fingerprint != found:
        log.warning(
            "The subject's weights were tuned on another base model than this MODEL (%.8s, this one is %.8s); "
            "it may look less alike.", tuned.base_fingerprint or "unknown", found,
        )  # fmt: skip
    clone = model.clone()
    clone.add_patches(patches)
    attach_tuning(clone, TuningRecord(patches, tuned.steps, tuned.method, tuned.base_fingerprint))
    return clone


def fingerprint_of_base(model) -> str:
    """Identifies the UNet below all patches of a MODEL."""
    canonical = _canonical_names(model)
    weights = {key: entries[0][0] for key, entries in model.get_key_patches(_UNET).items()}
    return base_fingerprint({canonical.get(key, key): weight for key, weight in weights.items()})


def _records(model) -> Iterator[TuningRecord]:
    record = tuning_of(model)
    while record is not None:
        yield record
        record = record.earlier


def _canonical_names(model) -> dict[str, str]:
    """The host's names of the UNet's weights -> diffusers'."""
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    return {_UNET + host: canonical for canonical, host in names.items()}


def _stored(name: str, patches: list, shape: torch.Size, rank: int | None) -> tuple[dict[str, Tensor], float, float]:
    """What to store for one weight, the squared norm of its change, and that of what storing loses."""
    if all(isinstance(patch, LoRAAdapter) for patch in patches):
        pairs = [_factors(patch) for patch in patches]  # the sum of several is one, side by side
        up, down = torch.cat([up for up, _ in pairs], 1), torch.cat([down for _, down in pairs], 0)
        change, stored = (up @ down).reshape(shape), store_factors(name, up, down, shape, len(down))
    else:
        change = sum(_whole(patch, shape) for patch in patches)
        stored = store_change(name, change, rank)
    return stored, _squared(change), _squared(restore_change(stored, shape, change.device) - change)


def _factors(patch: LoRAAdapter) -> tuple[Tensor, Tensor]:
    """`[out, rank]` and `[rank, in]`, whose product is the change."""
    up, down, alpha = patch.weights[:3]
    scale = 1.0 if alpha is None else alpha / down.shape[0]
    up, down = (factor.to(mm.get_torch_device(), torch.float32).flatten(1) for factor in (up, down))
    return up * scale, down


def _whole(patch, shape: torch.Size) -> Tensor:
    if isinstance(patch, LoRAAdapter):
        up, down = _factors(patch)
        return (up @ down).reshape(shape)
    (change, *_) = patch[-1] if patch[0] == "diff" else patch  # the host takes ("diff", (change,)) and (change,)
    return change.to(mm.get_torch_device(), torch.float32)


def _squared(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor)) ** 2


def _fits(patch, shape: torch.Size) -> bool:
    if isinstance(patch, LoRAAdapter):
        up, down = patch.weights[:2]
        return len(shape) > 1 and up.shape[0] == shape[0] and down.shape[1:].numel() == shape[1:].numel()
    return patch[1][0].shape == shape


def _unfitting(names: list[str]) -> SubjectError:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return SubjectError(
        f"The subject's tuned weights do not fit this MODEL: {', '.join(names[:_NAMED])}{rest} is missing there or of "
        "another size. They belong to a Stable Diffusion 1.5 UNet; SDXL, Flux and others cannot take them. Connect the "
        "MODEL that the subject was tuned on, or disconnect MODEL to use its vectors alone."
    )
