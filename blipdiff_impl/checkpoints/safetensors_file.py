"""Safetensors files through the library's own reader, which checks header length and offsets."""

from __future__ import annotations

from pathlib import Path

import torch

from .tensor_file import TensorInfo, unreadable

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
        try:
            with safe_open(path, framework="pt") as file:
                self.metadata: dict[str, str] = file.metadata() or {}
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (the file is no mapping)
                self.infos = {name: _info(part) for name, part in slices.items()}
        except SafetensorError as error:
            raise unreadable(path, error) from error

    def load(self, names: list[str]) -> dict[str, torch.Tensor]:
        """The named tensors, mapped from the file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in names}
        except SafetensorError as error:
            raise unreadable(self.path, error) from error


def _info(part) -> TensorInfo:
    word = part.get_dtype()
    return TensorInfo(tuple(part.get_shape()), SAFETENSORS_DTYPES.get(word, word))
