"""Write named tensors as one safetensors file that appears under its name complete or not at all.

The library's own writer copies every tensor before the first byte is written and hides the system's reason for a
failure; the format is simple: eight bytes of header length, a JSON header with types, shapes and offsets, the bytes.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .checkpoints.fingerprint import tensor_bytes
from .checkpoints.safetensors_file import SAFETENSORS_DTYPES
from .errors import SubjectError

_WORDS = {dtype: word for word, dtype in SAFETENSORS_DTYPES.items()}


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
    _refuse_destination(path, overwrite)
    _refuse_not_finite(path, tensors)
    _refuse_small_disk(path, sum(tensor.nbytes for tensor in tensors.values()))
    # Wide types first, so that every tensor starts at a multiple of its item size.
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))
    with _complete_file(path) as file:
        file.write(_header(ordered, metadata))
        for tensor in ordered.values():
            file.write(tensor_bytes(tensor.cpu()))


@contextmanager
def _complete_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the name `path` when the block ends well and is gone when it does not."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    header: dict = {"__metadata__": dict(metadata)}
    start = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _WORDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, start + tensor.nbytes],
        }
        start += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _refuse_destination(path: Path, overwrite: bool) -> None:
    if path.suffix != ".safetensors":
        raise SubjectError(f"The file to write should end in .safetensors, but it is {path.name!r}.")
    if not path.parent.is_dir():
        raise SubjectError(f"{path} cannot be written: there is no folder {path.parent}. Make it first.")
    if path.exists() and not overwrite:
        raise SubjectError(f"{path} exists already. Choose another name, or allow overwriting it.")


def _refuse_not_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise SubjectError(f"{path.name} was not written: {name} holds NaN or infinite numbers.")


def _refuse_small_disk(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise SubjectError(
            f"The disk that holds {path.parent} is too full: the file takes {size / 1e6:.1f} MB, "
            f"{free / 1e6:.1f} MB are free. Free some space."
        )


def _not_written(path: Path, error: OSError) -> SubjectError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SubjectError(f"The disk that holds {path.parent} filled up while writing {path.name}. Free some space.")
    return SubjectError(f"{path} cannot be written: {error.strerror or error}.")
