"""Writing a safetensors file by hand: whole under its name or not there at all, and streamed.

The library's own writer wants every tensor in memory before the first byte is written and hides the system's reason
for a failure. The format is simple: eight bytes of header length, a JSON header with types, shapes and offsets, the
bytes.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from .checkpoints.safetensors_file import SAFETENSORS_DTYPES
from .errors import SubjectError

_WORDS = {dtype: word for word, dtype in SAFETENSORS_DTYPES.items()}


@contextmanager
def complete_file(
    path: Path,
    size: int,
    overwrite: bool,
    kind: type[SubjectError] = SubjectError,
    check: Callable[[Path], None] = lambda written: None,
) -> Iterator[BinaryIO]:
    """A file to write to that takes the name `path` when the block ends well and is gone when it does not.

    Args:
        size: bytes that will be written, so that a disk too small is noticed before.
        kind: the class of the errors.
        check: called with the written file's temporary path before it gets its name; may raise to drop it.

    Raises:
        SubjectError: of the class `kind`: the name is taken or unusable, or the disk is full.
    """
    _refuse_destination(path, overwrite, kind)
    _refuse_small_disk(path, size, kind)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        check(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise _not_written(path, error, kind) from error
    finally:
        temporary.unlink(missing_ok=True)


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


def _refuse_destination(path: Path, overwrite: bool, kind: type[SubjectError]) -> None:
    if path.suffix != ".safetensors":
        raise kind(f"The file to write should end in .safetensors, but it is {path.name!r}.")
    if not path.parent.is_dir():
        raise kind(f"{path} cannot be written: there is no folder {path.parent}. Make it first.")
    if path.exists() and not overwrite:
        raise kind(f"{path} exists already. Choose another name, or allow overwriting it.")


def _refuse_small_disk(path: Path, size: int, kind: type[SubjectError]) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise kind(
            f"The disk that holds {path.parent} is too full: the file takes {size / 1e6:.1f} MB, "
            f"{free / 1e6:.1f} MB are free. Free some space, or store in 16 bit where there is a choice."
        )


def _not_written(path: Path, error: OSError, kind: type[SubjectError]) -> SubjectError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return kind(f"The disk that holds {path.parent} became full while writing {path.name}. Free some space.")
    return kind(f"{path} cannot be written: {error.strerror or error}.")
