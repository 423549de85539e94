"""The zip archive around a PyTorch file, looked at before PyTorch reads it: what its directory says costs little.

PyTorch stores its entries unpacked and one after the other. Entries that are packed, or that add up to more than the
file has, are a trap; so is a pickle far longer than the names and sizes of a model's tensors.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from ..errors import CheckpointError
from ..untrusted import DAMAGE
from .tensor_file import unreadable

MOST_PICKLE = 4 << 20  # bytes; that of a fine-tuned model with its optimiser's state has a quarter of a megabyte
_MOST_DIRECTORY = 4 << 20
_MAGIC = b"PK\x03\x04"
_PLAIN_WEIGHTS = "Use a file that holds plain weights."


def is_archive(path: Path) -> bool:
    """Whether PyTorch would read the file as an archive; older ones are a row of pickles."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def check_archive(path: Path) -> None:
    """Refuse an archive that is none of PyTorch's weights.

    Raises:
        CheckpointError: it is damaged, a program, or takes more to read than its size lets expect.
    """
    try:
        with _Directory(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except _TooLong:
        raise CheckpointError(f"{path} is an archive of far too many files for weights. {_PLAIN_WEIGHTS}") from None
    except DAMAGE:
        raise unreadable(path, "its list of contents cannot be read") from None
    if any(entry.filename.lower().endswith("/constants.pkl") for entry in entries):
        raise CheckpointError(f"{path} is a TorchScript program, which is not run. {_PLAIN_WEIGHTS}")
    size, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{path} is not a PyTorch file: it has {size:,} bytes but would unpack to {unpacked:,}. "
            "If it is a .zip download, unpack it first."
        )
    longest = max((entry.file_size for entry in entries if entry.filename.lower().endswith("data.pkl")), default=0)
    if longest > MOST_PICKLE:
        raise CheckpointError(
            f"{path} names far more than a model's tensors: its table has {longest:,} bytes, and those of more than "
            f"{MOST_PICKLE:,} are not read. {_PLAIN_WEIGHTS}"
        )


class _TooLong(ValueError):
    """The directory of an archive is longer than that of any model's weights."""


class _Directory(io.FileIO):
    """A file from which only an archive's directory is read: the library would take one of any length into memory."""

    def read(self, size: int = -1) -> bytes:
        data = super().read(_MOST_DIRECTORY + 1 if size is None or size < 0 else min(size, _MOST_DIRECTORY + 1))
        if len(data) > _MOST_DIRECTORY:
            raise _TooLong
        return data
