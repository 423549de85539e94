"""Safetensors files through the library's own reader, which checks header length and offsets."""

from __future__ import annotations

import struct
from pathlib import Path

import torch

from ..errors import CheckpointError, SubjectError
from ..untrusted import DAMAGE, MOST_JSON
from .tensor_file import TensorInfo, require_few, unreadable

# The format's words for the types that weights come in; other words are kept as they are and refused by name later.
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class SafetensorsFile:
    """A memory-mapped safetensors file; `metadata` is its string table."""

    def __init__(self, path: Path):
        from safetensors import SafetensorError, safe_open

        self.path = path
        _check_header(path)
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                require_few(path, len(names))
                self.metadata: dict[str, str] = file.metadata() or {}
                self.infos = {name: _info(file.get_slice(name)) for name in names}
        except CheckpointError:
            raise
        except (SafetensorError, *DAMAGE):
            raise unreadable(path, "its header does not describe its content") from None

    def load(self, names: list[str]) -> dict[str, torch.Tensor]:
        """The named tensors, mapped from the file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in names}
        except (SafetensorError, *DAMAGE):
            raise unreadable(self.path, "a tensor in it cannot be read") from None


def require_version(
    file: SafetensorsFile, version: str, again: str, kind: type[SubjectError] = CheckpointError
) -> None:
    """Refuse a file of this pack whose format this version does not know.

    Args:
        version: the one that is read.
        again: how the user comes to a file of it, as in "convert the model again".
        kind: the class of the error.
    """
    if (found := file.metadata.get("format_version")) != version:
        raise kind(
            f"{file.path} has format version {str(found)[:60]}, but this version of the pack reads {version}. "
            f"Update the pack, or {again}."
        )


def _check_header(path: Path) -> None:
    """The first eight bytes say how long the header is, which is looked at before it is read."""
    try:
        with path.open("rb") as file:
            start, size = file.read(8), path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length > size - 8:
        raise unreadable(path, "it ends before its header does")
    if length > MOST_JSON:
        raise CheckpointError(
            f"{path} has a header of {length:,} bytes, for more tensors than any model of this kind has; headers of "
            f"more than {MOST_JSON:,} bytes are not read. Choose another file."
        )


def _info(part) -> TensorInfo:
    word = part.get_dtype()
    return TensorInfo(tuple(part.get_shape()), SAFETENSORS_DTYPES.get(word, word))
