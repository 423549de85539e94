"""Low-rank factors (Hu et al. 2021, "LoRA"): trained beside the attention layers of a UNet, or cut out of a change of
weights."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The same in the host's and in diffusers' names.
_ATTENTION = re.compile(r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)")


@dataclass(frozen=True, eq=False)
class Factors:
    """W' = W + (alpha / rank) up @ down; up `[out, rank]`, down `[rank, in]`."""

    up: Tensor
    down: Tensor
    alpha: float


class LowRankLinear(nn.Module):
    """A frozen linear layer and its low-rank change, which starts at zero."""

    def __init__(self, base: nn.Linear, rank: int, generator: torch.Generator):
        super().__init__()
        self.base = base
        bound = base.in_features**-0.5
        down = (2 * torch.rand(rank, base.in_features, generator=generator) - 1) * bound
        self.down = nn.Parameter(down.to(base.weight.device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """The factors are float32 masters; they are rounded here to what the layer computes in."""
        return self.base(x) + F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))


def add_lora(unet: nn.Module, rank: int, seed: int) -> dict[str, LowRankLinear]:
    """Put factors beside every projection of the attention layers, in place; returns them by the layer's name."""
    generator = torch.Generator().manual_seed(seed)
    linears = {n: m for n, m in unet.named_modules() if isinstance(m, nn.Linear) and _ATTENTION.fullmatch(n)}
    # In the order of names, which diffusers' and the host's module trees do not share.
    layers = {name: LowRankLinear(linears[name], rank, generator) for name in sorted(linears)}
    for name, layer in layers.items():
        unet.set_submodule(name, layer)
    return layers


_OVERSAMPLING = 16
_ITERATIONS = 4  # Adam's changes have slowly falling singular values; fewer iterations mix the last ones up


def decompose(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """`delta` ~ up @ down, both of similar size, so that 16 bit holds either.

    Args:
        delta: `[out, in]`.
        rank: at most min(out, in).

    Returns:
        up `[out, rank]` and down `[rank, in]`, float32; the same for the same delta.
    """
    matrix = delta.float()
    basis = _range(matrix, min(rank + _OVERSAMPLING, *matrix.shape))
    left, singular, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    root = singular[:rank].sqrt()
    return basis @ left[:, :rank] * root, root[:, None] * right[:rank]


def _range(matrix: Tensor, columns: int) -> Tensor:
    """Orthonormal columns that span nearly what the largest singular vectors span."""
    generator = torch.Generator().manual_seed(0)  # on the CPU: the same numbers on every device
    start = torch.randn(matrix.shape[1], columns, generator=generator).to(matrix.device)
    basis = torch.linalg.qr(matrix @ start).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(matrix.T @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    return basis
