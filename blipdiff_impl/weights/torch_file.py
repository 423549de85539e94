"""PyTorch files (`.bin`, `.pt`, `.pth`), through the weights-only unpickler and memory-mapped."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, shown
from ..untrusted import DAMAGE
from .archive import MOST_PICKLE, check_archive, is_archive
from .tensor_file import TensorInfo, require_few, unreadable

# Wrappers in which trainers keep the weights beside optimiser and progress.
_WRAPPERS = ("model", "state_dict")
BARE_TENSOR = ""
# Modules that share weights save them under two names; a file whose tensors are many times its size is a trap.
_SHARING = 4


class TorchFile:
    """A state dict, one wrapped as {"model": ...}, tables of tensors ("conv_in" in the table "unet" is "unet.conv_in"),
    or a single bare tensor (under the name `BARE_TENSOR`)."""

    def __init__(self, path: Path):
        self.path = path
        self._tensors = _tensors_of(_load(path), path)
        _require_stored(self._tensors, path)
        self.infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in self._tensors.items()}

    def load(self, names: list[str]) -> dict[str, torch.Tensor]:
        """The named tensors, contiguous; mapped from the file where the archive allows it."""
        return {name: self._tensors[name].detach().contiguous() for name in names}


def _load(path: Path):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PyTorch thinks of a damaged pickle is no news to the user
            if is_archive(path):
                check_archive(path)
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            # Files older than PyTorch 1.6 are no archives and cannot be mapped.
            with path.open("rb") as file:
                short: Any = _ShortPickle(file)  # has all that PyTorch calls, which is less than it names
                return torch.load(short, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from None
    except DAMAGE:
        raise unreadable(path, "its content is not that of a PyTorch file") from None


class _ShortPickle:
    """A file in PyTorch's old format whose pickles end: the unpickler reads each instruction by a call of its own.

    It is no file of the system's to PyTorch, which would unpack a tar archive to the disk otherwise.
    """

    def __init__(self, file: io.BufferedReader):
        self._file, self._left = file, MOST_PICKLE

    def read(self, size: int = -1) -> bytes:
        self._count()
        return self._file.read(size)

    def readline(self) -> bytes:
        self._count()
        return self._file.readline(MOST_PICKLE)

    def readinto(self, buffer) -> int:
        self._count()
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError("the pickle goes on and on")


def _refused(path: Path, message: str) -> CheckpointError:
    """The unpickler met something that is no tensor; its message names it."""
    found = re.search(r"GLOBAL (\S+)", message)
    if not found:
        return unreadable(path, "its content is not that of a PyTorch file")
    return CheckpointError(
        f"{path} holds a Python object besides tensors ({found[1][:100]}); such objects can run code, so the file is "
        'not loaded. Save the weights alone where the file was made: torch.save({"model": content["model"]}, path).'
    )


def _tensors_of(content, path: Path) -> dict[str, torch.Tensor]:
    if isinstance(content, torch.Tensor):
        return {BARE_TENSOR: content}
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    content = _flattened(content, path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a table of named tensors.")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, torch.Tensor)):
            raise CheckpointError(
                f"{path} is not a table of named tensors: its entry {shown(name)} is a {type(value).__name__}."
            )
    return content


def _require_stored(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Every number of every tensor lies in the file: a view can repeat a few of them to any size."""
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(
                f"{path} is no plain weights file: its tensor {name[:100]} is {tensor.layout}, {tensor.device}."
            )
        needed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        total += needed
        if needed > stored:
            raise _claims(path, f"its tensor {name[:100]} would take {needed:,} bytes in memory, {stored:,} are there")
    if total > _SHARING * path.stat().st_size:
        raise _claims(path, f"its tensors would take {total:,} bytes in memory, the file has {path.stat().st_size:,}")


def _claims(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is no plain weights file: {what}. Save the weights with .contiguous().clone() where it was made."
    )


def _flattened(content, path: Path):
    """Tables of tensors inside the table become part of it, with the table's name in front of theirs.

    One level is all that published files have; what is left of others is refused by name.
    """
    if not isinstance(content, dict):
        return content
    require_few(path, sum(len(value) if isinstance(value, dict) else 1 for value in content.values()))
    flat: dict = {}
    for name, value in content.items():
        items = {f"{name}.{key}": item for key, item in value.items()} if _is_table(value) else {name: value}
        if twice := next((key for key in items if key in flat), None):
            raise CheckpointError(f"{path} holds the tensor {shown(twice)} twice. Save it again, under one name.")
        flat |= items
    return flat


def _is_table(value) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(key, str) for key in value)
