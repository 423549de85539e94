"""MS-Bench: subjects of several groups combined in pictures, with boxes and prompts by the type of the combination
(docs/method.md 13.9)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

from ..errors import SubjectError, first_few, shown
from ..files import parse_yaml, picture_paths, read_text
from ..prompts.tokenizers import normalise_category
from .benchmark import BenchmarkSubject

Edges = tuple[float, float, float, float]  # left, top, right, bottom as shares of the picture

GROUPS = ("living", "object", "scene", "upper", "middle", "lower", "whole")
PLACES = ("in a room", "in the snow", "in the jungle", "on the beach", "on the grass", "on a cobblestone street")
_LEFT, _RIGHT, _ALL = (0.0, 0.25, 0.5, 0.75), (0.5, 0.25, 1.0, 0.75), (0.0, 0.0, 1.0, 1.0)
_MIDDLE = (0.25, 0.25, 0.75, 0.75)
_THREE = ((0.0, 0.25, 0.35, 0.75), (0.35, 0.25, 0.65, 0.75), (0.65, 0.25, 1.0, 0.75))


@dataclass(frozen=True)
class CombinationType:
    """Which groups are combined, where each subject goes, and what is asked for.

    Attributes:
        prompts: templates with `{}` for each class word, in the order of the groups.
    """

    groups: tuple[str, ...]
    boxes: tuple[Edges, ...]
    prompts: tuple[str, ...]

    @property
    def name(self) -> str:
        """`living+object`."""
        return "+".join(self.groups)


def _everywhere(beginning: str) -> tuple[str, ...]:
    return tuple(f"{beginning} {place}" for place in PLACES)


_TWO = _everywhere("a {} and a {}")
_WEARING = _everywhere("a {} wearing a {}")

TYPES = (
    CombinationType(("living", "living"), (_LEFT, _RIGHT), _TWO),
    CombinationType(("living", "object"), (_LEFT, _RIGHT), _TWO),
    CombinationType(("object", "object"), (_LEFT, _RIGHT), _TWO),
    CombinationType(("living", "upper"), (_MIDDLE, (0.25, 0.0, 0.75, 0.25)), _WEARING),
    CombinationType(("living", "middle"), (_MIDDLE, _MIDDLE), _WEARING),
    CombinationType(("living", "whole"), (_MIDDLE, (0.25, 0.25, 0.75, 1.0)), _WEARING),
    CombinationType(("middle", "lower"), ((0.25, 0.25, 0.75, 0.6), (0.25, 0.6, 0.75, 1.0)),
                    _everywhere("a woman wearing a {} and a {}")),
    CombinationType(("living", "scene"), (_MIDDLE, _ALL), ("a {} in a {}",)),
    CombinationType(("object", "scene"), (_MIDDLE, _ALL), ("a {} in a {}",)),
    CombinationType(("living", "living", "living"), _THREE, _everywhere("a {}, a {} and a {}")),
    CombinationType(("object", "object", "object"), _THREE, _everywhere("a {}, a {} and a {}")),
    CombinationType(("living", "object", "scene"), (_LEFT, _RIGHT, _ALL), ("a {} and a {} in a {}",)),
    CombinationType(("upper", "middle", "lower"), ((0.25, 0.0, 0.75, 0.25), (0.25, 0.25, 0.75, 0.6),
                                                   (0.25, 0.6, 0.75, 1.0)),
                    _everywhere("a woman wearing a {}, a {} and a {}")),
)  # fmt: skip


@dataclass(frozen=True)
class FilledPrompt:
    """A prompt of several class words; it stands where one of a single subject does."""

    words: str

    def text(self, category: str) -> str:
        """What CLIP-T compares the picture with, whatever the category."""
        return self.words


@dataclass(frozen=True)
class Combination:
    """What is drawn together.

    Attributes:
        name: of its folder of pictures, `cat+mug`.
        kind: name of its type.
        parts: the subjects, with their photos.
        boxes: of each.
        prompts: in the order of their numbers.
    """

    name: str
    kind: str
    parts: tuple[BenchmarkSubject, ...]
    boxes: tuple[Edges, ...]
    prompts: tuple[FilledPrompt, ...]

    @property
    def photos(self) -> tuple[Path, ...]:
        """Of all subjects."""
        return tuple(path for part in self.parts for path in part.photos)

    @property
    def category(self) -> str:
        """All class words."""
        return ", ".join(part.category for part in self.parts)

    def as_record(self) -> dict:
        """What somebody needs to draw its pictures."""
        subjects = [
            {
                "name": part.name,
                "phrase": part.category,
                "box": list(box),
                "photos": [str(path) for path in part.photos],
            }
            for part, box in zip(self.parts, self.boxes, strict=True)
        ]
        return {"kind": self.kind, "subjects": subjects, "prompts": [prompt.words for prompt in self.prompts]}


def open_ms_bench(folder: Path, listing: Path) -> list[Combination]:
    """All combinations of the subjects that a file lists.

    subjects:
      my_cat: {category: cat, group: living}
      my_mug: {category: mug, group: object}
    types:                       # optional: other boxes or prompts, or other types, than MS-Bench's
      - groups: [living, object]
        boxes: [[0, 0.25, 0.5, 0.75], [0.5, 0.25, 1, 0.75]]
        prompts: ["a {} beside a {}"]

    Args:
        folder: with a folder of photos for each subject.

    Raises:
        SubjectError: a malformed file, a subject without photos, or nothing to combine.
    """
    record = parse_yaml(read_text(listing, "The benchmark"), f"The benchmark {listing} is neither YAML nor JSON")
    if not isinstance(record, dict) or not isinstance(record.get("subjects"), dict) or not record["subjects"]:
        raise SubjectError(
            f"The benchmark {listing} should have the part `subjects`, each with `category` and `group`."
        )
    groups: dict[str, list[BenchmarkSubject]] = {group: [] for group in GROUPS}
    for name, entry in record["subjects"].items():
        group, subject = _subject(folder, listing, str(name), entry)
        groups[group].append(subject)
    given = record.get("types")
    types = TYPES if given is None else tuple(_type(listing, entry) for entry in _list(listing, given))
    found = [combination for kind in types for combination in _combined(kind, groups)]
    if not found:
        raise SubjectError(
            f"{listing} has subjects of {first_few(k for k, v in groups.items() if v)}; no type combines them."
        )
    return found


def _combined(kind: CombinationType, groups: dict[str, list[BenchmarkSubject]]) -> Iterator[Combination]:
    """Every choice of one subject for each group; of one group several are chosen without order."""
    alike = len(set(kind.groups)) == 1
    choices = (
        combinations(groups[kind.groups[0]], len(kind.groups)) if alike else product(*(groups[g] for g in kind.groups))
    )
    for parts in choices:
        words = [part.category for part in parts]
        prompts = tuple(FilledPrompt(template.format(*words)) for template in kind.prompts)
        yield Combination("+".join(part.name for part in parts), kind.name, tuple(parts), kind.boxes, prompts)


def _subject(folder: Path, listing: Path, name: str, entry: object) -> tuple[str, BenchmarkSubject]:
    if not isinstance(entry, dict) or not isinstance(entry.get("category"), str) or entry.get("group") not in GROUPS:
        raise SubjectError(
            f"In {listing}, subjects: {name} should say `category: <class word>` and a `group` of {', '.join(GROUPS)}."
        )
    if not name or "/" in name or "\\" in name or "+" in name or name.startswith("."):
        raise SubjectError(f"The subject's name {name!r} cannot be a folder's; use letters, digits, - and _.")
    photos = tuple(picture_paths(folder / name))
    if not photos:
        raise SubjectError(f"There are no photos in {folder / name}. Add a folder with photos for each subject.")
    return entry["group"], BenchmarkSubject(name, normalise_category(entry["category"]), (), photos)


def _list(listing: Path, given: object) -> list:
    if not isinstance(given, list) or not given:
        raise SubjectError(f"In {listing}, types should be a list with `groups`, `boxes` and `prompts` each.")
    return given


def _type(listing: Path, entry: object) -> CombinationType:
    groups = entry.get("groups") if isinstance(entry, dict) else None
    if (
        not isinstance(entry, dict)
        or not isinstance(groups, list)
        or not set(map(str, groups)) <= set(GROUPS)
        or not groups
    ):
        raise SubjectError(
            f"In {listing}, a type should name its groups, of {', '.join(GROUPS)}; it is {shown(entry)}."
        )
    name, boxes, prompts = "+".join(groups), entry.get("boxes"), entry.get("prompts")
    if not (isinstance(boxes, list) and len(boxes) == len(groups) and all(map(_is_box, boxes))):
        raise SubjectError(
            f"In {listing}, {name} should have a box of four shares for each group; it has {shown(boxes)}."
        )
    if not (isinstance(prompts, list) and prompts and all(_takes(template, len(groups)) for template in prompts)):
        raise SubjectError(
            f"In {listing}, {name} should have prompts with {{}} {len(groups)} times; it has {shown(prompts)}."
        )
    return CombinationType(tuple(groups), tuple((b[0], b[1], b[2], b[3]) for b in boxes), tuple(prompts))


def _is_box(box: object) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not all(type(edge) in (int, float) for edge in box):
        return False
    return 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1


def _takes(template: object, count: int) -> bool:
    """Whether a template takes so many class words, and nothing else in braces."""
    if not isinstance(template, str) or template.count("{}") != count:
        return False
    return not set("{}") & set(template.replace("{}", ""))
