"""Samples in WebDataset shards: tar files in which members with one stem make one sample (docs/pretraining.md).

A shard's member table is read once (headers only); then members are read by their place.
"""

from __future__ import annotations

import bisect
import io
import json
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from glob import glob
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SubjectError, one_line, shown
from ..files import PICTURE_TYPES, UnreadablePicture, decode_text, read_cutout, read_mask, read_picture
from .samples import BrokenSample, Reference, Sample

_PICTURES = tuple(ending[1:] for ending in PICTURE_TYPES)
_MAX_MEMBER = 256 * 2**20
_OPEN_SHARDS = 16

# Extension of a member -> where it lies: (offset, bytes). None where there are several of one name.
Members = dict[str, tuple[int, int] | None]


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
                        members = found.setdefault(f"{folder}/{stem}".lstrip("/"), {})
                        extension = extension.lower()
                        members[extension] = None if extension in members else (member.offset_data, member.size)
        except (tarfile.TarError, OSError) as error:
            raise SubjectError(f"The shard {self.path} cannot be read as a tar file: {error}.") from error
        return list(found.items())


class _Reader:
    """Turns one sample's members into a `Sample`."""

    def __init__(self, file: io.BufferedReader, key: str, members: Members):
        self._file, self._key, self._members = file, key, members

    def sample(self) -> Sample:
        if twice := [extension for extension, place in self._members.items() if place is None]:
            raise BrokenSample(f"{self._key}.{twice[0]} is there twice, and nothing says which one is meant.")
        about = self._about()
        picture = self._picture("")
        if picture is None:
            raise BrokenSample(f"{self._key} has no picture (one of .{', .'.join(_PICTURES)}).")
        mask = self._picture("mask.", read_mask)
        if mask is not None and mask.shape != picture.shape[:2]:
            raise BrokenSample(
                f"{self._key}: mask {mask.shape[::-1]} and picture {picture.shape[1::-1]} differ in size."
            )
        return Sample(
            self._key, picture, self._captions(about), self._text(about, "category"), self._picture("composite."),
            mask, self._text(about, "context"), self._latent(), self._references(about),
            self._conversation(about), self._pictures(), self._text(about, "target"),
        )  # fmt: skip

    def _bytes(self, extension: str) -> bytes:
        place = self._members[extension]
        assert place is not None  # `sample` has refused what is there twice
        offset, size = place
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
            about = json.loads(decode_text(self._bytes("json")))
        except (ValueError, RecursionError) as error:
            raise BrokenSample(f"{self._key}.json is not JSON: {one_line(error)}.") from error
        if not isinstance(about, dict):
            raise BrokenSample(f"{self._key}.json should be an object, but it is {shown(about, 40)}.")
        return about

    def _captions(self, about: dict) -> tuple[str, ...]:
        captions: Any = about.get("captions") or [about.get("caption")]
        if captions == [None] and "txt" in self._members:
            captions = [self._caption()]
        if not isinstance(captions, list) or not all(isinstance(c, str) and c.strip() for c in captions):
            raise BrokenSample(f"{self._key} has no caption (json: caption or captions; or a .txt).")
        return tuple(caption.strip() for caption in captions)

    def _caption(self) -> str:
        try:
            return decode_text(self._bytes("txt"))
        except UnicodeDecodeError as error:
            raise BrokenSample(f"{self._key}.txt is no text; save it as UTF-8.") from error

    def _text(self, about: dict, name: str) -> str:
        value = about.get(name, "")
        if not isinstance(value, str):
            raise BrokenSample(f"{self._key}: {name} should be text, but it is {shown(value)}.")
        return value.strip()

    def _picture(self, kind: str, read: Callable = read_picture) -> np.ndarray | None:
        """uint8 `[H, W, 3]`, or `[H, W]` of a mask; None where the sample has none of this kind."""
        names = [kind + extension for extension in _PICTURES if kind + extension in self._members]
        if len(names) > 1:
            raise BrokenSample(f"{self._key} has {' and '.join(names)}, and nothing says which one is meant.")
        if not names:
            return None
        try:
            return np.asarray(read(io.BytesIO(self._bytes(names[0])), f"{self._key}.{names[0]}"))
        except UnreadablePicture as error:
            raise BrokenSample(str(error)) from error

    def _references(self, about: dict) -> tuple[Reference, ...]:
        subjects = about.get("subjects", [])
        if not isinstance(subjects, list) or not all(isinstance(subject, dict) for subject in subjects):
            raise BrokenSample(f"{self._key}: subjects should be a list of objects, but it is {shown(subjects, 40)}.")
        return tuple(self._reference(number, subject) for number, subject in enumerate(subjects))

    def _reference(self, number: int, subject: dict) -> Reference:
        picture = self._picture(f"reference{number}.", read_cutout)
        if picture is None:
            raise BrokenSample(f"{self._key} has no picture .reference{number} of its subject {number}.")
        box: Any = subject.get("box")
        if not (isinstance(box, list) and len(box) == 4 and all(type(edge) in (int, float) for edge in box)):
            raise BrokenSample(
                f"{self._key}: the box of subject {number} should be four numbers, not {shown(box, 40)}."
            )
        left, top, right, bottom = map(float, box)
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise BrokenSample(f"{self._key}: the box of subject {number}, {shown(box, 60)}, has no area in 0 to 1.")
        return Reference(picture, self._text(subject, "phrase"), (left, top, right, bottom))

    def _conversation(self, about: dict) -> tuple[str, ...]:
        texts = about.get("conversation", [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise BrokenSample(f"{self._key}: conversation should be a list of texts, but it is {shown(texts, 40)}.")
        return tuple(texts)

    def _pictures(self) -> tuple[np.ndarray, ...]:
        """Those of the conversation, in order, up to the first number that is not there."""
        found: list[np.ndarray] = []
        while (picture := self._picture(f"image{len(found) + 1}.")) is not None:
            found.append(picture)
        return tuple(found)

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
