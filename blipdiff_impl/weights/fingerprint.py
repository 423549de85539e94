"""A name for weights: SHA-256 over names, shapes, types and bytes, so that equal weights are known as equal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The raw little-endian bytes of a CPU tensor, without a copy where it is contiguous."""
    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def tensor_line(name: str, tensor: torch.Tensor) -> str:
    """One tensor's name, type, shape and content as a line of text."""
    digest = hashlib.sha256(tensor_bytes(tensor)).hexdigest()
    shape = "x".join(map(str, tensor.shape))
    return f"{name} {str(tensor.dtype).removeprefix('torch.')} {shape} {digest}\n"


def combine(lines: Iterable[str]) -> str:
    """Hex digest of a part from the lines of its tensors, in canonical order."""
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fingerprint_of(part: Mapping[str, torch.Tensor]) -> str:
    """Hex digest of a part given in canonical order; tensors are hashed side by side."""
    with ThreadPoolExecutor() as pool:
        return combine(pool.map(tensor_line, part.keys(), part.values()))
