"""Writing a safetensors file by hand: whole under its name or not there at all, and streamed.

The library's own writer wants every tensor in memory before the first byte is written and hides the system's reason
for a failure. The format is simple: eight bytes of header length, a JSON header with types, shapes and offsets, the
bytes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError, NameTaken, SubjectError
from ..publishing import part_of, publish, sweep
from .fingerprint import tensor_bytes
from .safetensors_file import SAFETENSORS_DTYPES

_WORDS = {dtype: word for word, dtype in SAFETENSORS_DTYPES.items()}


@contextmanager
def complete_file(
    path: Path,
    size: int,
    overwrite: bool,
    kind: type[SubjectError] = SubjectError,
    check: Callable[[Path], object] = lambda written: None,
) -> Generator[BinaryIO, None, None]:
    """A file to write to that takes the name `path` when the block ends well and is gone when it does not.

    Args:
        size: bytes that will be written, so that a disk too small is noticed before.
        kind: the class of the errors.
        check: called with the written file's temporary path before it gets its name; may raise to drop it.

    Raises:
        NameTaken: there is a file of the name, from the start or since.
        SubjectError: of the class `kind`: the name is unusable, or the disk is full.
    """
    part = part_of(path)
    try:
        require_destination(path, overwrite, kind)
        sweep(path.parent)
        _refuse_small_disk(path, size, kind)
        try:
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            check(part)
            publish(part, path, overwrite)
        finally:
            part.unlink(missing_ok=True)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        raise _not_written(path, error, kind) from error


def safetensors_header(
    layout: Iterable[tuple[str, torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """Length and JSON header of a file that holds these tensors one after the other.

    Args:
        layout: name, type and shape of each tensor, wide types first, so that each starts at a multiple of its size.
    """
    header: dict = {"__metadata__": dict(metadata)}
    start = 0
    for name, dtype, shape in layout:
        end = start + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": _WORDS[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def as_stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight as it goes into a file of a model: on the CPU, in the file's type.

    Raises:
        CheckpointError: a number is not finite, or is no more in that type.
    """
    stored = tensor.detach().to("cpu", dtype).contiguous()
    if not bool(torch.isfinite(stored).all()):
        cure = "" if not bool(torch.isfinite(tensor).all()) else f" as {dtype}; choose a wider type"
        raise CheckpointError(f"The weight {name} has numbers that are not finite{cure}. Nothing was written.")
    return stored


def write_model(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensor: Callable[[str], Tensor],
    dtype: torch.dtype,
    metadata: Mapping[str, str],
    check: Callable[[Path], object],
    overwrite: bool = False,
) -> None:
    """Write the weights of a model in one type; one tensor is in memory at a time.

    Args:
        shapes: of all tensors by name, in the order of the file.
        tensor: gives one of them.
        check: opens the written file before it gets its name; may raise to drop it.

    Raises:
        CheckpointError: a weight is not finite in that type, or the file cannot be written.
    """
    header = safetensors_header(((name, dtype, shape) for name, shape in shapes.items()), metadata)
    size = sum(torch.Size(shape).numel() for shape in shapes.values()) * dtype.itemsize
    with complete_file(path, size, overwrite, CheckpointError, check) as file:
        file.write(header)
        for name in shapes:
            file.write(tensor_bytes(as_stored(name, tensor(name), dtype)))


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


def require_destination(path: Path, overwrite: bool, kind: type[SubjectError] = SubjectError) -> None:
    """Refuse a name that a file cannot be written under, before the work whose result should go there.

    Raises:
        NameTaken: there is a file of the name, and it may not be replaced.
        SubjectError: of the class `kind`: another ending than .safetensors, or no folder.
    """
    if path.suffix != ".safetensors":
        raise kind(f"The file to write should end in .safetensors, but it is {path.name!r}.")
    if "\0" in str(path):
        raise kind(f"{str(path)[:200]!r} cannot be written: no name of a file can hold that.")
    if not path.parent.is_dir():
        raise kind(f"{path} cannot be written: there is no folder {path.parent}. Make it first.")
    if os.path.lexists(path) and not overwrite:
        raise _taken(path)


def _refuse_small_disk(path: Path, size: int, kind: type[SubjectError]) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise kind(
            f"The disk that holds {path.parent} is too full: the file takes {size / 1e6:.1f} MB, "
            f"{free / 1e6:.1f} MB are free. Free some space, or store in 16 bit where there is a choice."
        )


def _taken(path: Path) -> NameTaken:
    return NameTaken(f"{path} exists already. Choose another name, or allow overwriting it.")


def _not_written(path: Path, error: OSError, kind: type[SubjectError]) -> SubjectError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return kind(f"The disk that holds {path.parent} became full while writing {path.name}. Free some space.")
    return kind(f"{path} cannot be written: {error.strerror or error}.")
