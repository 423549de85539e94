"""What every file of named tensors has in common, whatever its format: what is known of it, and how it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ..errors import CheckpointError

# A whole LAVIS model with its ControlNet and its optimiser's state has four thousand.
MOST_TENSORS = 20_000


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


def unreadable(path: Path, what: str) -> CheckpointError:
    """The error for a file that is damaged: truncated, or written by something else.

    `what` is a sentence of this project's own. The libraries' sentences name their own classes, and one of them advises
    to load without any protection; raise this `from None`, so that no log shows them either.
    """
    return CheckpointError(f"{path} is damaged or incomplete ({_size_of(path)}): {what}. Download it again.")


def require_few(path: Path, tensors: int) -> None:
    """Refuse a file with more tensors than any model of this kind has, before work is done for each.

    Raises:
        CheckpointError: says how many there are.
    """
    if tensors > MOST_TENSORS:
        raise CheckpointError(
            f"{path} holds {tensors:,} tensors; a model of this kind has a few thousand, and files of more than "
            f"{MOST_TENSORS:,} are not loaded. Choose another file."
        )


def _size_of(path: Path) -> str:
    try:
        return f"{path.stat().st_size:,} bytes"
    except OSError:
        return "it is gone now"
