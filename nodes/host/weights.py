"""Filling a module of the host with weights, completely or not at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import comfy.model_patcher
import torch

from ...blipdiff_impl.errors import CheckpointError, first_few

# What loaders offer; default leaves the choice to the host.
WEIGHT_DTYPES = {"default": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_all(
    module: torch.nn.Module,
    weights: dict[str, torch.Tensor],
    part: str,
    patcher: comfy.model_patcher.ModelPatcher,
    optional: Collection[str] = (),
) -> None:
    """Load `weights` into `module`, the way the host loads its own.

    Args:
        part: what the weights are, for the message.
        patcher: the ModelPatcher around the module; a dynamic one takes the tensors themselves instead of copies.
        optional: names that a checkpoint need not hold.

    Raises:
        CheckpointError: a name is missing, left over, or has another shape.
    """
    dynamic = hasattr(patcher, "is_dynamic") and patcher.is_dynamic()  # older hosts have no dynamic ones
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False, assign=dynamic)
    except RuntimeError:
        raise other_sizes(part, module.state_dict(), weights) from None
    require_exact(sorted(set(missing) - set(optional)), unexpected, part)


def require_exact(missing: list[str], unexpected: list[str], part: str) -> None:
    """Raise CheckpointError that names what is missing or left over, if anything is."""
    if missing or unexpected:
        faults = [_listed("missing", missing), _listed("unknown to ComfyUI", unexpected)]
        raise CheckpointError(
            f"The {part} of this checkpoint does not fit ComfyUI's own model: {'; '.join(filter(None, faults))}. "
            "The file is incomplete or of another kind of model."
        )


def other_sizes(part: str, wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> CheckpointError:
    """The error for weights whose shapes are not those of the module that was built for them."""
    wrong = [
        f"{name} (found {list(tensor.shape)}, expected {list(wanted[name].shape)})"
        for name, tensor in found.items()
        if name in wanted and wanted[name].shape != tensor.shape
    ]
    return CheckpointError(
        f"The {part} of this checkpoint has other sizes than its configuration; {_listed('of another shape', wrong)}. "
        "The file is damaged, or its configuration belongs to another model."
    )


def set_group_count(module: torch.nn.Module, groups: int) -> None:
    """Give every GroupNorm of a module `groups` groups; the host builds them with 32, and the weights are the same."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.GroupNorm):
            norm.num_groups = groups


def patcher_class(disable_dynamic: bool = False) -> type[comfy.model_patcher.ModelPatcher]:
    """The host's class for a movable model. It is rebound while the host starts, so it is looked up at each use."""
    plain = comfy.model_patcher.ModelPatcher
    return plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)


def _listed(what: str, names: list[str]) -> str:
    return f"{what}: {first_few(names)}" if names else ""
