"""Named tensors that are in memory, written as one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .checkpoints.fingerprint import tensor_bytes
from .errors import SubjectError
from .safetensors_writing import complete_file, safetensors_header


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], overwrite: bool = False
) -> None:
    """Write to a temporary name beside `path`, then rename.

    Args:
        path: ends in .safetensors; its folder exists.
        tensors: on any device, of a type that safetensors knows.

    Raises:
        SubjectError: the name is taken or unusable, a number is not finite, or the disk is full.
    """
    _refuse_not_finite(path, tensors)
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))
    layout = ((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in ordered.items())
    with complete_file(path, sum(tensor.nbytes for tensor in tensors.values()), overwrite) as file:
        file.write(safetensors_header(layout, metadata))
        for tensor in ordered.values():
            file.write(tensor_bytes(tensor.cpu()))


def _refuse_not_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise SubjectError(f"{path.name} was not written: {name} holds NaN or infinite numbers.")
