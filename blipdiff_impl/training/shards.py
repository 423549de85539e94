"""Samples in WebDataset shards: tar files in which members with one stem make one sample (docs/pretraining.md).

A shard's member table is read once (headers only); then members are read by their place.
"""

from __future__ import annotations

import bisect
import io
import json
import tarfile
from collections import OrderedDict
from functools import cached_property
from glob import glob
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import SubjectError
from ..files import open_picture
from .samples import BrokenSample, Sample

_PICTURES = ("jpg", "jpeg", "png", "webp")
_MAX_MEMBER = 256 * 2**20
_MAX_PIXELS = 8192 * 8192
_OPEN_SHARDS = 16

# Extension of a member -> where it lies: (offset, bytes).
Members = dict[str, tuple[int, int]]


class Shards:
    """Samples of all shards, shard after shard.

    Args:
        patterns: paths or glob patterns.

    Raises:
        SubjectError: no file, a file that is no tar, a shard without a sample.
    """

    def __init__(self, patterns: tuple[str, ...]):
        self._paths = _find(patterns)
        self._shards = [_Shard(path) for path in self._paths]
        self.groups = [len(shard.samples) for shard in self._shards]
        self._ends = list(accumulate(self.groups))
        self._open: OrderedDict[int, io.BufferedReader] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        number = bisect.bisect_right(self._ends, index)
        stem, members = self._shards[number].samples[index - (self._ends[number] - self.groups[number])]
        return _Reader(self._file(number), f"{self._paths[number].name}:{stem}", members).sample()

    def __getstate__(self) -> dict:
        """A reading process opens files of its own."""
        return self.__dict__ | {"_open": OrderedDict()}

    def _file(self, number: int) -> io.BufferedReader:
        if number not in self._open:
            self._open[number] = open(self._paths[number], "rb")
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(number)
        return self._open[number]


class _Shard:
    """A tar file's samples in order: (stem, members)."""

    def __init__(self, path: Path):
        self.path = path
        if not self.samples:
            raise SubjectError(f"The shard {path} holds no sample. Remove it, or make it again.")

    @cached_property
    def samples(self) -> list[tuple[str, Members]]:
        found: dict[str, Members] = {}
        try:
            with tarfile.open(self.path, "r:") as tar:
                for member in tar:
                    folder, _, name = member.name.rpartition("/")
                    stem, dot, extension = name.partition(".")
                    if member.isreg() and stem and dot:
                        place = member.offset_data, member.size
                        found.setdefault(f"{folder}/{stem}".lstrip("/"), {})[extension.lower()] = place
        except (tarfile.TarError, OSError) as error:
            raise SubjectError(f"The shard {self.path} cannot be read as a tar file: {error}.") from error
        return list(found.items())


class _Reader:
    """Turns one sample's members into a `Sample`."""

    def __init__(self, file: io.BufferedReader, key: str, members: Members):
        self._file, self._key, self._members = file, key, members

    def sample(self) -> Sample:
        about = self._about()
        picture = self._picture("")
        if picture is None:
            raise BrokenSample(f"{self._key} has no picture (one of .{', .'.join(_PICTURES)}).")
        mask = self._picture("mask.", "L")
        if mask is not None and mask.shape != picture.shape[:2]:
            raise BrokenSample(
                f"{self._key}: mask {mask.shape[::-1]} and picture {picture.shape[1::-1]} differ in size."
            )
        return Sample(
            self._key, picture, self._captions(about), self._text(about, "category"), self._picture("composite."),
            mask, self._text(about, "context"), self._latent(),
        )  # fmt: skip

    def _bytes(self, extension: str) -> bytes:
        offset, size = self._members[extension]
        if size > _MAX_MEMBER:
            raise BrokenSample(f"{self._key}.{extension} has {size} bytes, more than {_MAX_MEMBER}.")
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) < size:
            raise BrokenSample(f"{self._key}.{extension} is cut off: {len(data)} of {size} bytes are there.")
        return data

    def _about(self) -> dict:
        if "json" not in self._members:
            return {}
        try:
            about = json.loads(self._bytes("json"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BrokenSample(f"{self._key}.json is not JSON: {error}.") from error
        if not isinstance(about, dict):
            raise BrokenSample(f"{self._key}.json should be an object, but it is {str(about)[:40]!r}.")
        return about

    def _captions(self, about: dict) -> tuple[str, ...]:
        captions = about.get("captions") or [about.get("caption")]
        if captions == [None] and "txt" in self._members:
            captions = [self._bytes("txt").decode("utf-8", errors="replace")]
        if not isinstance(captions, list) or not all(isinstance(c, str) and c.strip() for c in captions):
            raise BrokenSample(f"{self._key} has no caption (json: caption or captions; or a .txt).")
        return tuple(caption.strip() for caption in captions)

    def _text(self, about: dict, name: str) -> str:
        value = about.get(name, "")
        if not isinstance(value, str):
            raise BrokenSample(f"{self._key}: {name} should be text, but it is {value!r}.")
        return value.strip()

    def _picture(self, kind: str, mode: str = "RGB") -> np.ndarray | None:
        name = next((kind + extension for extension in _PICTURES if kind + extension in self._members), None)
        if name is None:
            return None
        try:
            with open_picture(io.BytesIO(self._bytes(name))) as picture:
                if picture.width * picture.height > _MAX_PIXELS:
                    raise BrokenSample(f"{self._key}.{name} has {picture.width}x{picture.height} pixels, too many.")
                return np.asarray(picture.convert(mode))
        # Pillow's readers pass on what their formats raise.
        except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise BrokenSample(f"{self._key}.{name} cannot be read as a picture: {error}.") from error

    def _latent(self) -> np.ndarray | None:
        if "latent.npy" not in self._members:
            return None
        try:
            latent = np.load(io.BytesIO(self._bytes("latent.npy")), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BrokenSample(f"{self._key}.latent.npy cannot be read: {error}.") from error
        if latent.ndim != 3 or latent.dtype.kind != "f" or not np.isfinite(latent).all():
            raise BrokenSample(f"{self._key}.latent.npy should be finite floats [4, h, w], not {latent.shape}.")
        return latent.astype(np.float32)


def _find(patterns: tuple[str, ...]) -> list[Path]:
    paths = [Path(path) for pattern in patterns for path in sorted(glob(pattern)) or [pattern]]
    if not paths:
        raise SubjectError(
            "There is no training data: name tar files with `shards`, or `shards: toy` for the toy world."
        )
    for path in paths:
        if not path.is_file():
            raise SubjectError(f"There is no shard {path}. Check `shards` in the settings.")
    return paths
