"""Which boxes of OpenImages make a subject: one salient thing, no people or clutter (stage 2, docs/method.md 9.2).

A box is left out by the first rule that it breaks, in the order of `RULES`. Shape and area are measured in shares of
width and height, as the author's code does: a box of 0.6 x 0.3 counts as 2 : 1 in a wide picture and in a tall one.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ....errors import SubjectError
from ..photo_list import Photo, place_in_list
from .open_images import Box, BrokenRow

HUMAN = (
    "boy", "girl", "person", "man", "mammal", "woman", "human body", "human head", "human hair", "human arm",
    "human face", "human leg", "human hand", "human foot", "human eye", "human mouth", "human nose", "human ear",
    "clothing", "suit",
)  # fmt: skip
CLUTTER = ("tree", "plant", "houseplant", "desk", "table", "poster", "billboard")

# The files hold up to eight decimals; differences of them are exact to about 1e-16.
_ROUNDING = 1e-9
_NAMED_ROWS = 5
_REPORT_EVERY = 1_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilterSettings:
    """Limits of the rules; the values are the paper's.

    Attributes:
        max_aspect: a box is left out whose longer side is more than this many times the shorter one.
        min_area, max_area: a box is kept that covers more than the one and less than the other.
        human, clutter: categories that are left out.
    """

    max_aspect: float = 2.0
    min_area: float = 0.3
    max_area: float = 0.8
    human: tuple[str, ...] = HUMAN
    clutter: tuple[str, ...] = CLUTTER

    def __post_init__(self):
        if not 1 <= self.max_aspect < float("inf"):
            raise SubjectError(f"max_aspect = {self.max_aspect} should be a number of 1 or more.")
        if not 0 <= self.min_area < self.max_area <= 1:
            raise SubjectError(
                f"min_area = {self.min_area} and max_area = {self.max_area} should rise within 0..1, such as 0.3, 0.8."
            )

    def require_known(self, categories: Iterable[str]) -> None:
        """Refuse a name that someone added and that no class has, for it would leave nothing out."""
        if unknown := set(self.human + self.clutter) - {*HUMAN, *CLUTTER, *categories}:
            raise SubjectError(f"No class is called {', '.join(sorted(map(repr, unknown)))}.")


def _area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)


def _is_long(box: Box, settings: FilterSettings) -> bool:
    short, long = sorted((box.right - box.left, box.bottom - box.top))
    return long > settings.max_aspect * short + _ROUNDING


# Whether a box breaks a rule; the flags' "unknown" (-1) does, as in the author's code.
RULES: dict[str, Callable[[Box, FilterSettings], bool]] = {
    "group": lambda box, settings: box.group != 0,
    "inside": lambda box, settings: box.inside != 0,
    "aspect": _is_long,
    "too small": lambda box, settings: _area(box) <= settings.min_area + _ROUNDING,
    "too large": lambda box, settings: _area(box) >= settings.max_area - _ROUNDING,
    "human": lambda box, settings: box.category in settings.human,
    "clutter": lambda box, settings: box.category in settings.clutter,
}
LATER_RULES = ("no picture", "duplicate")


@dataclass
class FilterReport:
    """What became of the rows."""

    settings: FilterSettings
    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    images: set[str] = field(default_factory=set)

    def as_record(self) -> dict:
        """For JSON: `rows` is the sum of `kept` and all of `rejected`."""
        return {
            "rows": self.rows,
            "kept": self.classes.total(),
            "images": len(self.images),
            "rejected": {rule: self.rejected[rule] for rule in ("unreadable", *RULES, *LATER_RULES)},
            "unreadable_rows": self.unreadable,
            "classes": dict(sorted(self.classes.items(), key=lambda entry: (-entry[1], entry[0]))),
            "settings": asdict(self.settings),
        }

    def reject(self, row: Box | BrokenRow, rule: str) -> None:
        """Count a row; the first unreadable ones are named."""
        self.rejected[rule] += 1
        if isinstance(row, BrokenRow) and len(self.unreadable) < _NAMED_ROWS:
            self.unreadable.append(f"{row.place}: {row.reason}")


def choose_photos(rows: Iterable[Box | BrokenRow], images: Path, out: Path, report: FilterReport) -> Iterator[Photo]:
    """The boxes that keep the rules, as photos for the list `out`; counts go into the report as they are read.

    Of one class in one image the first box that keeps the rules is taken, wherever its rows stand. What is remembered
    grows with the photos that are kept, not with the rows.

    Args:
        images: folder with IMAGE.jpg.
    """
    keys: set[str] = set()
    for row in rows:
        report.rows += 1
        if report.rows % _REPORT_EVERY == 0:
            log.info("%d rows read, %d kept", report.rows, len(keys))
        if isinstance(row, BrokenRow):
            report.reject(row, "unreadable")
            continue
        rule = _broken_rule(row, report.settings)
        if rule:
            report.reject(row, rule)
            continue
        key = f"{row.image}-{_words(row.category)}"
        picture = os.path.join(images, f"{row.image}.jpg")  # a `Path` leaves an entry in the interpreter's tables
        if key in keys or not os.path.isfile(picture):
            report.reject(row, "duplicate" if key in keys else "no picture")
            continue
        keys.add(key)
        report.classes[row.category] += 1
        report.images.add(row.image)
        yield Photo(key, place_in_list(Path(picture), out), row.category, (row.left, row.top, row.right, row.bottom))


def _broken_rule(row: Box, settings: FilterSettings) -> str | None:
    return next((rule for rule, broken in RULES.items() if broken(row, settings)), None)


def _words(category: str) -> str:
    """`polar-bear`; letters beyond a to z are written as their number, so that categories stay apart."""
    spelled = re.sub(r"[^\x00-\x7f]", lambda letter: f"u{ord(letter[0]):x}", category)
    return re.sub(r"[^a-z0-9]+", "-", spelled).strip("-")[:100] or "subject"
