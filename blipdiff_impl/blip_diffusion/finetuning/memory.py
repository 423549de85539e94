"""How much memory a fine-tuning takes, and what to do when that is more than there is.

Weights are counted exactly. Activations are counted per latent pixel and channel of the first level: with fused
attention, what autograd keeps of a Stable Diffusion UNet is that many numbers, whatever the size of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ...stable_diffusion.config import VAE_FACTOR
from .settings import FinetuneSettings

# Numbers that autograd keeps, without and with gradient checkpointing. Counted on a UNet of the released size without
# storage: 400, and 32 for the inputs of the blocks; the rest is for what the backward pass has in hand.
_ACTIVATIONS = {False: 480, True: 100}
_RESERVE = 2**30  # the text encoder (0.46 GiB in float32), libraries' workspaces and fragments
_WHOLE = 4  # bytes of a number in float32, in which the MODEL is copied before anything is rounded
_SMALLEST = 256


@dataclass(frozen=True)
class UNetSize:
    """Numbers in a UNet, in its low-rank factors per rank, and channels of its first level."""

    weights: int
    factors_per_rank: int
    channels: int


@dataclass(frozen=True)
class Plan:
    """Whether to use gradient checkpointing, and why, for the log."""

    checkpointing: bool
    reason: str


def bytes_needed(
    size: UNetSize, settings: FinetuneSettings, resolution: int, precision: torch.dtype, checkpointing: bool
) -> int:
    """An estimate from above of the peak."""
    width = precision.itemsize
    places = settings.batch_size * (resolution // VAE_FACTOR) ** 2 * size.channels
    activations = places * _ACTIVATIONS[checkpointing] * width
    if settings.method != "full":
        factors = size.factors_per_rank * settings.rank if settings.method == "lora" else 0
        return max(_WHOLE * size.weights, size.weights * width + 16 * factors + activations) + _RESERVE
    if width == 4:
        return 16 * size.weights + activations + _RESERVE  # the weight, its gradient and AdamW's two moments
    # Masters and moments; beside them working copies and their gradients, then working copies and wide gradients.
    return 12 * size.weights + max(2 * width * size.weights + activations, (width + 4) * size.weights) + _RESERVE


def plan(size: UNetSize, settings: FinetuneSettings, resolution: int, precision: torch.dtype, free: int) -> Plan:
    """Gradient checkpointing (about a third slower) only where the memory that is free asks for it."""
    fast, small = (bytes_needed(size, settings, resolution, precision, choice) for choice in (False, True))
    if fast <= free:
        return Plan(False, f"no gradient checkpointing: about {_gib(fast)} needed, {_gib(free)} free")
    reason = f"gradient checkpointing: about {_gib(fast)} needed without it, {_gib(small)} with it, {_gib(free)} free"
    return Plan(True, reason if small <= free else f"{reason}; that may not be enough")


def too_much(size: UNetSize, settings: FinetuneSettings, resolution: int, precision: torch.dtype, free: int) -> str:
    """The sentence for an artist whose machine ran out of memory: what was asked, what there is, and what fits."""
    asked = bytes_needed(size, settings, resolution, precision, True)
    fitting = [
        _in_words(option, side)
        for option, side in _smaller(settings, resolution)
        if bytes_needed(size, option, side, precision, True) <= min(free, _RESERVE + 0.9 * (asked - _RESERVE))
    ]
    start = f"Out of memory: {_in_words(settings, resolution)} needs about {_gib(asked)}, and {_gib(free)} were free. "
    if not fitting:
        return start + "Nothing smaller fits either; free memory by closing other programs, or use a larger machine."
    return start + f"What fits: {'; or '.join(fitting[:2])}."


def _smaller(settings: FinetuneSettings, resolution: int) -> Iterator[tuple[FinetuneSettings, int]]:
    """Settings that take less, those that change least first."""
    for method in dict.fromkeys((settings.method, "lora", "vectors")):
        option = replace(settings, method=method)
        for batch in dict.fromkeys((settings.batch_size, 1)):
            yield replace(option, batch_size=batch), resolution
    smallest = "vectors" if settings.method == "vectors" else "lora"
    for side in range(resolution - 64, _SMALLEST - 1, -64):
        yield replace(settings, method=smallest, batch_size=1), side


def _in_words(settings: FinetuneSettings, resolution: int) -> str:
    return f"method {settings.method}, batch_size {settings.batch_size}, resolution {resolution}"


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
