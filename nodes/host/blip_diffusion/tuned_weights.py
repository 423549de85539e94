"""The weights that were tuned for a subject: from a MODEL into the names and shapes of a LoRA file, and back.

What is saved is what the MODEL samples with, less what it would sample with untuned: where models were merged after
the tuning, a part of it, or more. LoRAs stacked on the same MODEL stay out of the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import comfy.lora
import comfy.model_management as mm
import comfy.utils
import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ....blipdiff_impl.blip_diffusion.stored_weights import restore_change, store_change, store_factors
from ....blipdiff_impl.blip_diffusion.subject_file import TunedWeights
from ....blipdiff_impl.errors import SubjectError, first_few
from ....blipdiff_impl.stable_diffusion.base_fingerprint import base_fingerprint
from ..notices import tell
from ..session import Progress
from ..weight_mix import Mix, changes_of, take_apart
from .tuning_record import Tuning, TuningRecord, attach_tuning, tuning_of, tuning_of_patch

_UNET = "diffusion_model."
_NAMED = 3


@dataclass(frozen=True)
class Collected:
    """Weights for a file, and how much of their change it loses: ||stored - change|| / ||change|| over all weights.

    Attributes:
        tuned: None where the MODEL was tuned, but samples as if it were not: the tuning was merged away.
        as_tuned: whether the MODEL samples with the tuning as it was learned.
        left_out: whether there are LoRAs on the MODEL, which are not in the file.
    """

    tuned: TunedWeights | None
    loss: float
    as_tuned: bool
    left_out: bool


@dataclass(frozen=True)
class _Change:
    """One weight of the MODEL: what tuning changed of it, in terms of `base`, float32 on the host's device."""

    mix: Mix
    stored: Tensor
    convert: Callable[..., Tensor]

    @property
    def as_tuned(self) -> bool:
        return not self.mix.base and not self.mix.others and all(abs(f - 1) < 1e-6 for f, _ in self.mix.tuned)

    @property
    def is_nothing(self) -> bool:
        return not (self.mix.base or self.mix.others or self.mix.tuned)

    @property
    def base(self) -> Tensor:
        return self.convert(_on_device(self.stored).clone(), inplace=True)


def collect_tuned(model, rank: int | None = None) -> Collected | None:
    """The tuned weights on a MODEL, or None where it carries none.

    A change that was learned as a LoRA is kept as one. Stored in 16 bit, except numbers too small for it.

    Args:
        rank: for changes of whole weights: None keeps them whole, a number stores the closest change of that rank.

    Raises:
        SubjectError: another node changed the weights in a way that cannot be saved.
    """
    changes, tunings = _changes(model)
    if not tunings:
        return None
    left_out = any(change.mix.left_out for change in changes.values())
    changes = {key: change for key, change in changes.items() if not change.is_nothing}
    _require_seen(model, changes)
    if not changes:
        return Collected(None, 0.0, False, left_out)
    names = _canonical_names(model)
    tensors, lost, total = {}, 0.0, 0.0
    progress = Progress(len(changes))
    for done, (key, change) in enumerate(changes.items()):
        progress.report(done, len(changes))
        stored, size, difference = _stored(names[key], change, rank)
        tensors |= stored
        lost, total = lost + difference, total + size
    progress.report(len(changes), len(changes))
    as_tuned = all(change.as_tuned for change in changes.values())
    newest = tuning_of(model) or tunings[-1]
    base = newest.base_fingerprint if as_tuned else fingerprint_of_base(model)
    tuned = TunedWeights(tensors, sum(tuning.steps for tuning in tunings), newest.method, base)
    return Collected(tuned, (lost / total) ** 0.5 if total else 0.0, as_tuned, left_out)


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
        tell(
            "The subject's weights were tuned on another base model than this MODEL "
            f"({tuned.base_fingerprint or 'unknown':.8}, this one is {found:.8}); it may look less alike."
        )
    clone = model.clone()
    clone.add_patches(patches)
    attach_tuning(clone, TuningRecord(patches, tuned.steps, tuned.method, tuned.base_fingerprint))
    return clone


def fingerprint_of_base(model) -> str:
    """Identifies the UNet below all patches of a MODEL."""
    canonical = _canonical_names(model)
    weights = {key: entries[0][0] for key, entries in model.get_key_patches(_UNET).items()}
    return base_fingerprint({canonical.get(key, key): weight for key, weight in weights.items()})


def _changes(model) -> tuple[dict[str, _Change], list[Tuning]]:
    """What tuning changed of each patched weight, and all tunings that are in it."""
    first = tuning_of(model)
    while first is not None and first.earlier is not None:
        first = first.earlier
    before = first.before if first else {}
    changes, tunings = {}, {}

    def is_tuned(patch) -> bool:
        tuning = tuning_of_patch(patch)
        tunings[id(tuning)] = tuning
        return tuning is not None

    for key, ((weight, convert), *entries) in model.get_key_patches(_UNET).items():
        if entries:
            after = take_apart(entries, weight, is_tuned, key)
            untuned = take_apart(entries[: before.get(key, 0)], weight, is_tuned, key)
            changes[key] = _Change(after.minus(untuned).without_nothing(), weight, convert)
    return changes, list(filter(None, tunings.values()))


def _require_seen(model, changes: dict[str, _Change]) -> None:
    """Refuse weights that another node replaces while sampling: patches say nothing of what is then sampled with."""
    replaced = [key for key in changes if key in model.object_patches or key in model.weight_wrapper_patches]
    if replaced:
        raise SubjectError(
            f"Another node changes {first_few(replaced, _NAMED)} of this MODEL while it samples, so what was tuned "
            "cannot be told. Connect the MODEL from before that node to Save Subject."
        )


def _canonical_names(model) -> dict[str, str]:
    """The host's names of the UNet's weights -> diffusers'."""
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    return {_UNET + host: canonical for canonical, host in names.items()}


def _stored(name: str, change: _Change, rank: int | None) -> tuple[dict[str, Tensor], float, float]:
    """What to store for one weight, the squared norm of its change, and that of what storing loses."""
    mix, shape = change.mix, change.stored.shape
    if not mix.base and not mix.others and all(isinstance(patch, LoRAAdapter) for _, patch in mix.tuned):
        pairs = [_factors(patch, factor) for factor, patch in mix.tuned]  # the sum of several is one, side by side
        up, down = torch.cat([up for up, _ in pairs], 1), torch.cat([down for _, down in pairs], 0)
        whole, stored = (up @ down).reshape(shape), store_factors(name, up, down, shape, len(down))
    else:
        nothing = torch.zeros(shape, device=mm.get_torch_device())
        whole = sum((_whole(patch, factor, shape) for factor, patch in mix.tuned), start=nothing)
        whole = whole + sum(factor * _on_device(other) for factor, other in mix.others)
        if mix.base:
            whole = whole + mix.base * change.base
        stored = store_change(name, whole, rank)
    return stored, _squared(whole), _squared(restore_change(stored, shape, whole.device) - whole)


def _factors(patch: LoRAAdapter, factor: float) -> tuple[Tensor, Tensor]:
    """`[out, rank]` and `[rank, in]`, whose product is the change times `factor`."""
    up, down, alpha = patch.weights[:3]
    scale = factor * (1.0 if alpha is None else alpha / down.shape[0])
    return _on_device(up).flatten(1) * scale, _on_device(down).flatten(1)


def _whole(patch, factor: float, shape: torch.Size) -> Tensor:
    if isinstance(patch, LoRAAdapter):
        up, down = _factors(patch, factor)
        return (up @ down).reshape(shape)
    return factor * _on_device(changes_of(patch))


def _on_device(tensor: Tensor) -> Tensor:
    return tensor.to(mm.get_torch_device(), torch.float32)


def _squared(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor)) ** 2


def _fits(patch, shape: torch.Size) -> bool:
    if isinstance(patch, LoRAAdapter):
        up, down = patch.weights[:2]
        return len(shape) > 1 and up.shape[0] == shape[0] and math.prod(down.shape[1:]) == math.prod(shape[1:])
    return patch[1][0].shape == shape


def _unfitting(names: list[str]) -> SubjectError:
    return SubjectError(
        f"The subject's tuned weights do not fit this MODEL: {first_few(names, _NAMED)} is missing there or of "
        "another size. They belong to a Stable Diffusion 1.5 UNet; SDXL, Flux and others cannot take them. Connect the "
        "MODEL that the subject was tuned on, or disconnect MODEL to use its vectors alone."
    )
