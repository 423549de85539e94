"""How the change of one weight lies in a subject's file: whole, or as two thin factors, in the names of LoRA files."""

from __future__ import annotations

import torch
from torch import Tensor

from ..training.lora import decompose
from .subject_file import weight_name

_WHOLE = {"weight": "diff", "bias": "diff_b"}
_HALF_LOSS = 1e-3  # more than rounding to 16 bit costs a number of normal size (2^-11)


def exact_changes(weight: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
    """Two changes that, added to `old` in float32 one after the other, give `weight` bit for bit.

    The first is the difference, rounded. Where the two weights are within a factor of two of each other it is exact
    (Sterbenz 1974); elsewhere there may be no single float32 number that leads to `weight`, and the second is what
    then is missing.

    Args:
        weight, old: float32, of one shape.
    """
    change = weight - old
    return change, weight - (old + change)


def store_change(name: str, change: Tensor, rank: int | None = None) -> dict[str, Tensor]:
    """Tensors for the file.

    Args:
        name: canonical name of the weight, `....weight` or `....bias`.
        change: tuned weight less the weight before, float32.
        rank: None stores it whole; a number stores the closest change of that rank, where that takes less room.
    """
    module, _, kind = name.rpartition(".")
    if rank is None or change.ndim < 2 or rank * (len(change) + change[0].numel()) >= change.numel():
        return {f"{weight_name(module)}.{_WHOLE[kind]}": _compact(change)}
    return store_factors(name, *decompose(change.flatten(1), rank), change.shape, float(rank))


def store_factors(name: str, up: Tensor, down: Tensor, shape: torch.Size, alpha: float) -> dict[str, Tensor]:
    """Tensors for the file of a change that is up @ down * alpha / rank.

    Args:
        up, down: `[out, rank]` and `[rank, in]`, or already in the shapes of a convolution's factors.
        shape: that of the weight.
    """
    module = weight_name(name.removesuffix(".weight"))
    rank = len(down)
    return {
        f"{module}.lora_up.weight": _compact(up.reshape(shape[0], rank, *[1] * (len(shape) - 2))),
        f"{module}.lora_down.weight": _compact(down.reshape(rank, *shape[1:])),
        f"{module}.alpha": torch.tensor(float(alpha)),
    }


def restore_change(stored: dict[str, Tensor], shape: torch.Size, device: torch.device | str = "cpu") -> Tensor:
    """The change, float32, that the tensors of one weight stand for."""
    kinds = {name.partition(".")[2]: tensor.to(device, torch.float32) for name, tensor in stored.items()}
    if "alpha" not in kinds:
        (change,) = kinds.values()
        return change
    up, down = kinds["lora_up.weight"].flatten(1), kinds["lora_down.weight"].flatten(1)
    return (up @ down).reshape(shape) * (kinds["alpha"] / len(down))


def _compact(tensor: Tensor) -> Tensor:
    """In 16 bit, where that keeps the numbers: changes after a few gentle steps can be too small for it."""
    tensor = tensor.detach().cpu()
    half = tensor.half()
    return half if (half.float() - tensor).norm() <= _HALF_LOSS * tensor.norm() else tensor
