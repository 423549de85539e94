"""A file of named tensors, opened without reading the weights: names, shapes and types first, values on demand.

Two formats: safetensors, and PyTorch's zip archives, which are read through the weights-only unpickler alone.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError
from .safetensors_file import SafetensorsFile
from .tensor_file import TensorFile, refuse_wrong_content
from .torch_file import TorchFile

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pth.tar")  # the last is no archive of tar: a name of habit


def open_tensor_file(path: Path) -> TensorFile:
    """Open a safetensors or PyTorch file by its suffix.

    Raises:
        CheckpointError: the file is missing, empty, unreadable, truncated, a download page or a Git LFS pointer,
            or asks for more than tensors.
    """
    refuse_wrong_content(path)
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.name.endswith(PICKLE_SUFFIXES):
        return TorchFile(path)
    raise CheckpointError(
        f"{path} is not a weights file: its name should end in .safetensors, {', '.join(PICKLE_SUFFIXES)}."
    )
