"""A file of named tensors, opened without reading the weights: names, shapes and types first, values on demand.

Two formats: safetensors, and PyTorch's zip archives, which are read through the weights-only unpickler alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ..errors import CheckpointError

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor; `dtype` is a torch type, or the file's own word where torch has none."""

    shape: tuple[int, ...]
    dtype: torch.dtype | str


class TensorFile(Protocol):
    """An opened file; `infos` costs nothing, `load` maps the named tensors into memory."""

    path: Path
    infos: dict[str, TensorInfo]

    def load(self, names: list[str]) -> dict[str, torch.Tensor]: ...


def open_tensor_file(path: Path) -> TensorFile:
    """Open a safetensors or PyTorch file by its suffix.

    Raises:
        CheckpointError: the file is missing, empty, unreadable, truncated, a download page or a Git LFS pointer,
            or asks for more than tensors.
    """
    from .safetensors_file import SafetensorsFile
    from .torch_file import TorchFile

    refuse_wrong_content(path)
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix in PICKLE_SUFFIXES:
        return TorchFile(path)
    raise CheckpointError(
        f"{path} is not a weights file: its name should end in .safetensors, {', '.join(PICKLE_SUFFIXES)}."
    )


def refuse_wrong_content(path: Path) -> None:
    """Say plainly what lies there when a download left something else than weights."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read: permission denied. Allow reading it and try again.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    text = start.lstrip().lower()
    if not start:
        raise CheckpointError(f"{path} is empty (0 bytes). Download it again.")
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file: it holds a note of where the weights are. "
            "Run `git lfs pull` in that folder, or download the file itself."
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page, not weights: the download was answered with a page. Download the file again."
        )


def unreadable(path: Path, reason: Exception | str) -> CheckpointError:
    """The error for a file that is damaged: truncated, or written by something else."""
    short = " ".join(str(reason).split())[:200]
    return CheckpointError(
        f"{path} is damaged or incomplete ({path.stat().st_size:,} bytes): {short}. Download it again."
    )
