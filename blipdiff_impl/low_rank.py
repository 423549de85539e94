"""A change of weights as a product of two thin matrices, the closest one of a given rank.

Randomised subspace iteration: Halko, Martinsson and Tropp, "Finding structure with randomness" (2011), algorithms 4.4
and 5.1. A released UNet has matrices of 1280 x 11520, for which the exact decomposition takes minutes on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
