"""Captions for a whole list of photos, batch by batch; a run that was killed resumes where it was.

What is done stands in `OUT.partial` beside the list to come (captioning_progress.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from PIL import Image

from ....errors import SubjectError
from ....files import UnreadablePicture, digest_of, read_picture, require_writable_folder
from ....folder_lock import only_run_in
from ....settings import require_in_range
from ..photo_list import Photo, moved, read_photos, write_photos
from .files import CaptionFile
from .judge import KEEP, CaptionJudge, choose, tidy
from .model import Captioner, SamplingSettings
from .progress import UnfinishedCaptions

_REPORT_SECONDS = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionSources:
    """Where captions come from, in this order: the list itself, a file, a model; and who puts them in order.

    Attributes:
        file: captions that someone has.
        captioner, sampling: the model and how it draws.
        judge: without one the order stays as it is.
        keep: captions of a photo at most.
        batch: photos that the captioner sees at once.
    """

    file: CaptionFile | None = None
    captioner: Captioner | None = None
    sampling: SamplingSettings = SamplingSettings()
    judge: CaptionJudge | None = None
    keep: int = KEEP
    batch: int = 4

    def __post_init__(self):
        if not (self.file or self.captioner or self.judge):
            raise SubjectError("Give captions (--captions), a model for them (--captioner), or a judge (--clip).")
        for name in ("keep", "batch"):
            require_in_range(name, getattr(self, name), 1, 10_000)

    @property
    def needs_pictures(self) -> bool:
        """Whether photos are looked at."""
        return bool(self.captioner or self.judge)

    def as_record(self, photo_list: Path) -> dict:
        """What the captions depend on."""
        sampling = {"captioner": self.captioner.fingerprint, **asdict(self.sampling)} if self.captioner else None
        return {
            "list": digest_of(photo_list),
            "captions": self.file.fingerprint if self.file else None,
            "sampling": sampling,
            "clip": self.judge.fingerprint if self.judge else None,
            "keep": self.keep,
            "batch": self.batch,
        }


@dataclass
class CaptionCounts:
    """Counts of a run."""

    photos: int = 0
    captions: int = 0
    without: int = 0
    unreadable: int = 0


def caption_list(photo_list: Path, out: Path, sources: CaptionSources) -> CaptionCounts:
    """Write the list with captions; photos are those of the list, in its order.

    A photo that cannot be read stays, without captions.

    Raises:
        SubjectError: the list is wrong, `out` is there already, or what is begun was begun with other settings.
    """
    require_new(out)
    require_writable_folder(out.parent)
    with only_run_in(out.parent, out.name):
        return _caption_list(photo_list, out, sources)


def _caption_list(photo_list: Path, out: Path, sources: CaptionSources) -> CaptionCounts:
    total = sum(1 for _ in read_photos(photo_list))
    if not total:
        raise SubjectError(f"{photo_list} holds no photo.")
    unfinished = UnfinishedCaptions(
        out.with_name(f"{out.name}.partial"), sources.as_record(photo_list), sources.batch, total
    )
    if unfinished.done:
        log.info("%d of %d photos were done before", unfinished.done, total)
    _run(photo_list, sources, unfinished, total)
    counts = CaptionCounts()
    write_photos(out, (moved(photo, photo_list, out) for photo in _finished(photo_list, unfinished, counts)))
    unfinished.path.unlink()
    return counts


def require_new(out: Path) -> None:
    """Refuse a list that is there: never overwrite captions that took days."""
    if out.exists():
        raise SubjectError(f"{out} is there already. Delete it, or choose another --out.")


def _run(photo_list: Path, sources: CaptionSources, unfinished: UnfinishedCaptions, total: int) -> None:
    photos = islice(read_photos(photo_list), unfinished.done, None)
    start = reported = time.monotonic()
    first = unfinished.done
    while batch := list(islice(photos, sources.batch)):
        unfinished.add(_caption_batch(batch, photo_list.parent, sources))
        now = time.monotonic()
        if now - reported >= _REPORT_SECONDS or unfinished.done == total:
            reported, speed = now, (unfinished.done - first) / max(now - start, 1e-9)
            log.info("%d of %d photos, %.2f photos/s", unfinished.done, total, speed)


def _caption_batch(photos: list[Photo], folder: Path, sources: CaptionSources) -> list[dict]:
    """The partial file's lines for some photos."""
    pictures = _read(photos, folder) if sources.needs_pictures else {}
    sampled: dict[str, list[str]] = {}
    if sources.captioner and pictures:
        drawn = sources.captioner.captions(list(pictures.values()), list(pictures), sources.sampling)
        sampled = dict(zip(pictures, drawn, strict=True))
    records = []
    for photo in photos:
        record: dict = {"key": photo.key, "captions": []}
        if sources.needs_pictures and photo.key not in pictures:
            record["unreadable"] = True
        else:
            record["captions"] = _captions(photo, pictures.get(photo.key), sampled.get(photo.key, []), sources)
        records.append(record)
    return records


def _captions(photo: Photo, picture: Image.Image | None, sampled: list[str], sources: CaptionSources) -> list[str]:
    given = sources.file.of(photo) if sources.file else []
    captions = tidy([*photo.captions, *given, *sampled])
    if sources.judge:
        assert picture is not None  # without its picture a photo has no captions, see `needs_pictures`
        captions = sources.judge.rank(picture, captions)
    return list(choose(captions, photo.category, sources.keep))


def _read(photos: list[Photo], folder: Path) -> dict[str, Image.Image]:
    """Pictures by key, without those that cannot be read."""
    pictures = {}
    for photo in photos:
        try:
            pictures[photo.key] = read_picture(folder / photo.image)
        except UnreadablePicture as error:
            log.warning("%s: %s", photo.key, error)
    return pictures


def _finished(photo_list: Path, unfinished: UnfinishedCaptions, counts: CaptionCounts) -> Iterator[Photo]:
    for photo, record in zip(read_photos(photo_list), unfinished.records(), strict=True):
        captions = tuple(record["captions"])
        counts.photos += 1
        counts.captions += len(captions)
        counts.without += not captions
        counts.unreadable += record.get("unreadable", False)
        yield replace(photo, captions=captions)
