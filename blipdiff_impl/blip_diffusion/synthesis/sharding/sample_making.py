"""One photo to the members of one sample; what is drawn depends on the seed and the photo's key alone."""

from __future__ import annotations

import hashlib
import io
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ....pictures.matting.library import load_pymatting
from ....pictures.matting.matte import Matte
from ....pictures.pixels import as_png
from ..photo_list import Photo
from .backgrounds import Backgrounds
from .composing import Box, blend, check_subject, cut, subject_box
from .photos import read_photo, scaled
from .rejects import NO_CAPTION, Rejected
from .segmenting import Segmenter, cut_out
from .settings import SynthesisSettings

MEMBERS = ("composite.jpg", "jpg", "json", "mask.png")
STAGES = ("read", "segment", "matte", "compose", "encode")


@dataclass(frozen=True)
class Outcome:
    """What became of a photo.

    Attributes:
        key: of the photo.
        members: extension (one of `MEMBERS`) -> bytes; empty where there is none.
        rule, reason: why there is none.
        seconds: of each stage in `STAGES` that was reached.
        began, ended: wall-clock time.
        warnings: sentences about what was passed over, such as a damaged background.
    """

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    rule: str = ""
    reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = 0.0
    ended: float = 0.0
    warnings: list[str] = field(default_factory=list)


class SampleMaker:
    """Makes samples; one of them in each process, as it holds the segmenter.

    Args:
        folder: that the paths of the list are relative to.
        backgrounds: folder of pictures.
        clipseg: folder of CLIPSeg, or None.

    Raises:
        SubjectError: no PyMatting, no background, no CLIPSeg.
    """

    def __init__(self, folder: Path, backgrounds: Path, clipseg: Path | None, settings: SynthesisSettings):
        self._folder, self._settings = folder, settings
        self._backgrounds = Backgrounds(backgrounds)
        self._segmenter = Segmenter(folder, clipseg, settings)
        load_pymatting()  # a fresh installation compiles it here, once, and stores the result

    def make(self, photo: Photo) -> Outcome:
        """The photo's sample, or why it has none.

        Raises:
            SubjectError: what no other photo would escape, such as a folder of damaged backgrounds.
        """
        began, clock, members, rule, reason = time.time(), _Clock(), {}, "", ""
        self._backgrounds.problems.clear()
        try:
            members = self._members(photo, clock)
        except Rejected as reject:
            rule, reason = reject.rule, reject.reason
        warnings = list(self._backgrounds.problems)
        return Outcome(photo.key, members, rule, reason, clock.seconds, began, time.time(), warnings)

    def _members(self, photo: Photo, clock: _Clock) -> dict[str, bytes]:
        settings = self._settings
        if not photo.captions:
            raise Rejected(NO_CAPTION, "The list has no caption for it.")
        with clock.of("read"):
            picture = read_photo(self._folder / photo.image, settings.picture_side, settings.least_side)
        with clock.of("segment"):
            trimap = self._segmenter.trimap(photo, picture)
        with clock.of("matte"):
            matted = cut_out(picture, trimap, settings.working_side)
        with clock.of("compose"):
            box = subject_box(photo.box, matted.alpha)
            composite, ground = self._composite(photo.key, matted, box)
        with clock.of("encode"):
            about = {"captions": photo.captions, "category": photo.category, "box": box, "background": ground}
            return {
                "jpg": _jpeg(picture, settings.quality),
                "json": json.dumps(about, ensure_ascii=False).encode(),
                "composite.jpg": _jpeg(composite, settings.quality),
                "mask.png": as_png(matted.alpha),
            }

    def _composite(self, key: str, matted: Matte, box: Box) -> tuple[Image.Image, str]:
        alpha = cut(matted.alpha, box)
        check_subject(alpha, self._settings)
        ground, name = self._backgrounds.crop((alpha.shape[1], alpha.shape[0]), draws_of(self._settings.seed, key))
        return scaled(blend(cut(matted.foreground, box), alpha, ground), self._settings.composite_side), name


def draws_of(seed: int, key: str) -> np.random.Generator:
    """All that is random about a photo."""
    words = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4")
    return np.random.default_rng([seed, *words.tolist()])


class _Clock:
    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, stage: str):
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = time.perf_counter() - start


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()
