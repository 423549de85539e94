"""PyTorch files (`.bin`, `.pt`, `.pth`), through the weights-only unpickler and memory-mapped."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from pathlib import Path

import torch

from ..errors import CheckpointError
from .tensor_file import TensorInfo, unreadable

# What the unpickler and the archive reader raise on damaged or hostile input.
_DAMAGE = (
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    OSError,
)
# Wrappers in which trainers keep the weights beside optimiser and progress.
_WRAPPERS = ("model", "state_dict")
BARE_TENSOR = ""


class TorchFile:
    """A state dict, one wrapped as {"model": ...}, or a single bare tensor (under the name `BARE_TENSOR`)."""

    def __init__(self, path: Path):
        self.path = path
        self._tensors = _tensors_of(_load(path), path)
        self.infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in self._tensors.items()}

    def load(self, names: list[str]) -> dict[str, torch.Tensor]:
        """The named tensors, contiguous; mapped from the file where the archive allows it."""
        return {name: self._tensors[name].detach().contiguous() for name in names}


def _load(path: Path):
    archive = zipfile.is_zipfile(path)
    if archive:
        _check_archive(path)
    try:
        # Files older than PyTorch 1.6 are no archives and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except _DAMAGE as error:
        raise unreadable(path, error) from error


def _check_archive(path: Path) -> None:
    """PyTorch stores its entries unpacked, so entries that add up to more than the file are a trap."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, *_DAMAGE) as error:
        raise unreadable(path, error) from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise CheckpointError(
            f"{path} is a TorchScript program, which is not run. Use a file that holds plain weights."
        )
    size, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{path} is not a PyTorch file: it has {size:,} bytes but would unpack to {unpacked:,}. "
            "If it is a .zip download, unpack it first."
        )


def _refused(path: Path, message: str) -> CheckpointError:
    """The unpickler met something that is no tensor; its message names it."""
    found = re.search(r"GLOBAL (\S+)", message)
    if not found:
        return unreadable(path, message)
    return CheckpointError(
        f"{path} holds a Python object besides tensors ({found[1]}); such objects can run code, so the file is not "
        'loaded. Save the weights alone where the file was made: torch.save({"model": content["model"]}, path).'
    )


def _tensors_of(content, path: Path) -> dict[str, torch.Tensor]:
    if isinstance(content, torch.Tensor):
        return {BARE_TENSOR: content}
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a table of named tensors.")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, torch.Tensor)):
            raise CheckpointError(
                f"{path} is not a table of named tensors: its entry {name!r} is a {type(value).__name__}."
            )
        if value.layout is not torch.strided or value.device.type != "cpu":
            raise CheckpointError(
                f"{path} is no plain weights file: its tensor {name} is {value.layout}, {value.device}."
            )
    return content
