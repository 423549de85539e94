"""Scores of pictures: computed in batches, kept in a file for each subject of each run, found again later.

A picture's DINO and CLIP-I score is the mean cosine with all photos of its subject, so that the mean over pictures is
the mean over all pairs (docs/method.md 10.2).
"""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from ..files import UnreadablePicture, digest_of, read_json, read_picture, write_json
from ..pictures.towers import ClipTower, DinoTower
from ..settings import require_in_range
from .aesthetic import AestheticScorer
from .benchmark import BenchmarkSubject
from .layout import prompt_of

BATCH, MAX_BATCH = 32, 4096

_ALWAYS = ("dino", "clip_i", "clip_t")
_SOMETIMES = ("aesthetic", "m_dino")

log = logging.getLogger(__name__)


class Tower(Protocol):
    """What turns pictures into features of unit length."""

    def pictures(self, pictures: list[Image.Image]) -> Tensor: ...


@dataclass(frozen=True)
class Judges:
    """The networks of one evaluation; `aesthetic` may be left out."""

    dino: DinoTower
    clip: ClipTower
    aesthetic: AestheticScorer | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Identifies all weights."""
        parts = (self.dino, self.clip, self.aesthetic)
        return hashlib.sha256("".join(part.fingerprint for part in parts if part).encode()).hexdigest()


@dataclass(frozen=True)
class SubjectScores:
    """One subject in one run.

    Attributes:
        pictures: scores of each picture by its file name: "dino", "clip_i", "clip_t" and, where asked for, "aesthetic".
        photos: how many the pictures were compared with.
        unreadable: names of files that are no pictures; they count nowhere.
        expected: how many pictures there should be; None where nobody said.
    """

    name: str
    pictures: dict[str, dict[str, float]]
    photos: int
    unreadable: tuple[str, ...] = ()
    expected: int | None = None


@dataclass(frozen=True, eq=False)
class PhotoFeatures:
    """Features of one subject's photos, `[P, D]` of unit length."""

    dino: Tensor
    clip: Tensor


class Scorer:
    """Scores one subject after the other.

    Args:
        folder: where scores are kept.
        batch: pictures that go through a network at once.
    """

    def __init__(self, judges: Judges, folder: Path, batch: int = BATCH):
        require_in_range("batch", batch, 1, MAX_BATCH)
        self._judges = judges
        self._folder = folder
        self._batch = batch
        self._photos: dict[str, PhotoFeatures] = {}
        self._photo_digests: dict[str, str] = {}
        self._texts: dict[str, Tensor] = {}

    def photos(self, subject: BenchmarkSubject) -> PhotoFeatures:
        """Features of the subject's photos, computed once.

        Raises:
            SubjectError: a photo cannot be read; without it every number of the subject would be another.
        """
        if subject.name not in self._photos:
            parts = [
                (self._judges.dino.pictures(pictures), self._judges.clip.pictures(pictures))
                for chunk in _chunks(list(subject.photos), self._batch)
                for pictures in [[read_picture(path) for path in chunk]]
            ]
            dino, clip = zip(*parts, strict=True)
            self._photos[subject.name] = PhotoFeatures(torch.cat(dino), torch.cat(clip))
        return self._photos[subject.name]

    def score(
        self, run: str, subject: BenchmarkSubject, paths: list[Path], expected: int | None = None
    ) -> SubjectScores:
        """Scores of these pictures; those that the run's file holds for the same files and weights are taken from it.

        Batches are cut from the whole list, so that an interrupted evaluation computes each number as an unbroken one.
        A file that is no picture is named in the log and left out.
        """
        file = self._folder / run / f"{subject.name}.json"
        key = self._key(subject)
        record = read_json(file) or {}
        known = _known(record) if record.get("key") == key else {}
        kept: dict[str, dict] = {}
        for chunk in _chunks(paths, self._batch):
            digests = {path.name: digest_of(path) for path in chunk}
            entries = {name: known.get(name) for name in digests}
            if any(entry is None or entry["sha256"] != digests[name] for name, entry in entries.items()):
                entries = self._judge(subject, chunk, digests)
                kept |= entries
                write_json(file, {"key": key, "pictures": known | kept})
            kept |= entries
        if kept.keys() != known.keys():
            write_json(file, {"key": key, "pictures": kept})
        unreadable = tuple(name for name, entry in kept.items() if entry["scores"] is None)
        scores = {name: entry["scores"] for name, entry in kept.items() if entry["scores"] is not None}
        return SubjectScores(subject.name, scores, len(subject.photos), unreadable, expected)

    def _key(self, subject: BenchmarkSubject) -> str:
        """Identifies all that the scores depend on beside the pictures."""
        if subject.name not in self._photo_digests:
            self._photo_digests[subject.name] = digest_of(*subject.photos)
        texts = [prompt.text(subject.category) for prompt in subject.prompts]
        parts = [self._judges.fingerprint, self._photo_digests[subject.name], str(self._batch), *texts]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _judge(self, subject: BenchmarkSubject, paths: list[Path], digests: dict[str, str]) -> dict[str, dict]:
        opened = {path: picture for path in paths if (picture := _opened(path)) is not None}
        rows = self._scores(subject, list(opened), list(opened.values())) if opened else []
        scores = dict(zip(opened, rows, strict=True))
        return {path.name: {"sha256": digests[path.name], "scores": scores.get(path)} for path in paths}

    def _scores(self, subject: BenchmarkSubject, paths: list[Path], pictures: list[Image.Image]) -> list[dict]:
        photos, judges = self.photos(subject), self._judges
        clip = judges.clip.pictures(pictures)
        texts = torch.stack([self._text(subject, prompt_of(path)) for path in paths])
        columns = {
            "dino": mean_cosines(judges.dino.pictures(pictures), photos.dino),
            "clip_i": mean_cosines(clip, photos.clip),
            "clip_t": (clip * texts).sum(-1),
        }
        if judges.aesthetic:
            columns["aesthetic"] = judges.aesthetic.pictures(pictures)
        lists = {name: column.tolist() for name, column in columns.items()}
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]

    def _text(self, subject: BenchmarkSubject, number: int) -> Tensor:
        text = subject.prompts[number].text(subject.category)
        if text not in self._texts:
            self._texts[text] = self._judges.clip.text(text)
        return self._texts[text]


def mean_cosines(pictures: Tensor, photos: Tensor) -> Tensor:
    """Each picture's mean cosine with all photos, `[N]`, of features `[N, D]` and `[P, D]` of unit length."""
    return (pictures @ photos.T).mean(1)


def mean_cosine_among(photos: Tensor) -> float | None:
    """Mean cosine of all pairs of different photos `[P, D]`; None for a single photo."""
    count = len(photos)
    if count < 2:
        return None
    cosines = photos @ photos.T
    return float((cosines.sum() - cosines.trace()) / (count * (count - 1)))


def _known(record: dict) -> dict[str, dict]:
    """The entries of a file of scores; one that does not hold what was written is not there, and judged again."""
    pictures = record.get("pictures")
    pictures = pictures if isinstance(pictures, dict) else {}
    return {name: entry for name, entry in pictures.items() if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str) or "scores" not in entry:
        return False
    scores = entry["scores"]
    if scores is None:
        return True
    return (
        isinstance(scores, dict)
        and set(_ALWAYS) <= set(scores) <= {*_ALWAYS, *_SOMETIMES}
        and all(type(value) in (int, float) and math.isfinite(value) for value in scores.values())
    )


def _opened(path: Path) -> Image.Image | None:
    try:
        return read_picture(path)
    except UnreadablePicture as error:
        log.warning("%s It counts nowhere.", error)
        return None


def _chunks(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]
