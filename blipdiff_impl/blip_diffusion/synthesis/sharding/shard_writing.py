"""WebDataset shards whose bytes depend on the samples alone (docs/pretraining.md: "Data: WebDataset shards")."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
from pathlib import Path

from ....errors import SubjectError

_PART = ".part"


class ShardWriter:
    """One shard, under a hidden name until it is whole.

    Args:
        path: that it gets in the end.

    Raises:
        SubjectError: the place cannot be written to.
    """

    def __init__(self, path: Path):
        self.path, self.samples = path, 0
        self._part = path.with_name(f".{path.name}{_PART}")
        self._file = _guarded(path, lambda: _HashingFile(self._part))
        # GNU's, as names may be longer than the 100 letters of the oldest format.
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.GNU_FORMAT)

    def add(self, key: str, members: dict[str, bytes]) -> None:
        """Append a sample; its members come in the order of their names."""
        for extension in sorted(members):
            record = tarfile.TarInfo(f"{key}.{extension}")
            record.size, record.mode = len(members[extension]), 0o644
            _guarded(self.path, lambda r=record, e=extension: self._tar.addfile(r, io.BytesIO(members[e])))
        self.samples += 1

    def finish(self) -> tuple[str, int]:
        """Close it and give it its name; returns SHA-256 (hex) and size in bytes."""

        def close():
            self._tar.close()
            self._file.close()
            os.replace(self._part, self.path)

        _guarded(self.path, close)
        return self._file.digest.hexdigest(), self._file.size

    def discard(self) -> None:
        """Remove what is unfinished."""
        with contextlib.suppress(OSError):  # a full disk, already reported
            self._file.close()
        self._part.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left of a shard."""
    for part in folder.glob(f".*{_PART}"):
        part.unlink()


class _HashingFile:
    """A file that is only written to, and the SHA-256 of what went into it."""

    def __init__(self, path: Path):
        self._file = open(path, "wb")
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size

    def close(self) -> None:
        self._file.close()


def _guarded(path: Path, job):
    try:
        return job()
    except OSError as error:
        raise SubjectError(
            f"{path} cannot be written: {error.strerror or error}. Free some space or choose another --out; the same "
            "command resumes from here."
        ) from error
