"""A list of photos to a folder of shards, from the beginning or from where an earlier run was interrupted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ....errors import SubjectError
from ....files import digest_of, require_writable_folder
from ....folder_lock import only_run_in
from ....pictures.matting.clipseg import FILES
from ....pictures.matting.library import load_pymatting
from ..photo_list import Photo, read_photos
from .backgrounds import Backgrounds
from .manifest import REJECTS, Manifest, ShardRecord, source_digest
from .sample_making import Outcome, SampleMaker
from .settings import SynthesisSettings
from .shard_writing import ShardWriter, remove_unfinished
from .speed import Speed
from .workers import make_here, make_with_ray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """What shards are made from.

    Attributes:
        photos: the list, see `photo_list`.
        backgrounds: folder of pictures.
        clipseg: folder of CLIPSeg; None when every photo of the list has a mask.
    """

    photos: Path
    backgrounds: Path
    clipseg: Path | None = None

    def digests(self) -> dict[str, str]:
        """What tells them from others, for the manifest."""
        return {
            "list": digest_of(self.photos),
            "backgrounds": Backgrounds(self.backgrounds).digest(),
            "clipseg": digest_of(*(self.clipseg / name for name in FILES)) if self.clipseg else "",
        }


def synthesise(
    sources: Sources, out: Path, settings: SynthesisSettings, workers: int = 0, address: str = ""
) -> tuple[Manifest, Speed]:
    """Make the shards that are missing in `out`.

    Args:
        workers: processes of Ray; 0 makes the samples in this process.
        address: of a Ray cluster that shares the file system; empty is this computer.

    Raises:
        SubjectError: a source that cannot be used, a folder of other shards, no space, or not one sample at the end.
    """
    photos = _read_list(sources)
    load_pymatting()
    made_from = sources.digests() | asdict(settings)
    require_writable_folder(out)
    with only_run_in(out):
        return _make_missing(photos, sources, Manifest(out, made_from), settings, workers, address)


def _make_missing(
    photos: list[Photo], sources: Sources, manifest: Manifest, settings: SynthesisSettings, workers: int, address: str
) -> tuple[Manifest, Speed]:
    remove_unfinished(manifest.folder)
    left = photos[manifest.photos :]
    speed = Speed(len(left), max(1, workers))
    if not manifest.complete:
        if manifest.shards:
            log.info("Going on behind %s, photo %d of %d.", manifest.shards[-1].name, manifest.photos, len(photos))
        factory = partial(SampleMaker, sources.photos.parent, sources.backgrounds, sources.clipseg, settings)
        outcomes = make_with_ray(factory, left, workers, address) if workers else make_here(factory, left)
        with closing(outcomes):  # ends the workers also when writing fails
            _write_shards(_noted(outcomes, speed), left, manifest, settings.shard_samples)
    if not manifest.samples:
        raise SubjectError(f"None of the {len(photos)} photos became a sample; {manifest.folder / REJECTS} says why.")
    return manifest, speed


def _read_list(sources: Sources) -> list[Photo]:
    photos = list(read_photos(sources.photos))
    if not photos:
        raise SubjectError(f"The list of photos {sources.photos} is empty.")
    without = sum(not photo.mask for photo in photos)
    if without and not sources.clipseg:
        raise SubjectError(
            f"{without} of {len(photos)} photos in {sources.photos} have no mask. Name a folder of CLIPSeg: --clipseg."
        )
    if sources.clipseg and (missing := [name for name in FILES if not (sources.clipseg / name).is_file()]):
        raise SubjectError(f"The CLIPSeg folder {sources.clipseg} has no {' and no '.join(missing)}.")
    return photos


def _noted(outcomes: Iterator[Outcome], speed: Speed) -> Iterator[Outcome]:
    for outcome in outcomes:
        speed.note(outcome)
        yield outcome


def _write_shards(outcomes: Iterator[Outcome], photos: list[Photo], manifest: Manifest, samples: int) -> None:
    """Outcomes of `photos`, in their order, to shards of `samples` each."""
    begin, writer, rejects = 0, None, []
    try:
        for end, outcome in enumerate(outcomes, 1):
            if outcome.rule:
                rejects.append(outcome)
                continue
            writer = writer or ShardWriter(manifest.folder / f"shard-{len(manifest.shards):06d}.tar")
            writer.add(outcome.key, outcome.members)
            if writer.samples == samples:
                manifest.add(_finish(writer, photos[begin:end]), rejects)
                begin, writer, rejects = end, None, []
        if writer:
            manifest.add(_finish(writer, photos[begin:]), rejects)
            writer, rejects = None, []
    finally:
        if writer:
            writer.discard()
    manifest.finish(rejects)


def _finish(writer: ShardWriter, photos: list[Photo]) -> ShardRecord:
    sha256, size = writer.finish()
    return ShardRecord(writer.path.name, writer.samples, len(photos), size, sha256, source_digest(photos))
