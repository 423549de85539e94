"""What is asked for: subjects with photos, and the prompts that each is drawn with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import SubjectError
from ..files import digest_of, picture_paths
from ..prompts.rows import SUBJECT_MARKER
from ..prompts.tokenizers import normalise_category
from .benchmark_file import DATA_SET_FILES, Listing, read_listing

_PLAIN_NAME = re.compile(r"[^\W.][\w .+-]*")


@dataclass(frozen=True)
class Prompt:
    """One prompt, with `{}` where the class word goes: `a {} in the jungle`."""

    template: str

    def __post_init__(self):
        if self.template.count("{}") != 1 or set("{}") & set(self.template.replace("{}", "")):
            raise SubjectError(
                f"The prompt {self.template!r} should hold {{}} once, where the class word goes: 'a {{}} in the snow'."
            )

    def text(self, category: str) -> str:
        """What CLIP-T compares the picture with."""
        return self.template.replace("{}", category)

    def for_subject(self, category: str) -> str:
        """The prompt as `compose` takes it.

        A scene is what stands behind the class word. A property, which stands before it in the benchmark
        (`a red {}`), goes behind it too, as in the release (docs/method.md 10.2). Words on both sides
        stay where they are.
        """
        before, after = (part.strip() for part in self.template.split("{}"))
        before_words = re.sub(r"^(an?|the)\b\s*", "", before)
        if before_words and after:
            return f"{before} {SUBJECT_MARKER} {category} {after}"
        return after or before_words or f"{before} {SUBJECT_MARKER} {category}".strip()


@dataclass(frozen=True)
class BenchmarkSubject:
    """One subject: class word, prompts in the order of their numbers, photo files."""

    name: str
    category: str
    prompts: tuple[Prompt, ...]
    photos: tuple[Path, ...]

    def as_record(self) -> dict:
        """All that its pictures depend on."""
        prompts = [prompt.for_subject(self.category) for prompt in self.prompts]
        return {"category": self.category, "prompts": prompts, "photos": digest_of(*self.photos)}


def open_benchmark(
    folder: Path, listing: Path | None = None, only: list[str] | None = None, released_words: bool = True
) -> list[BenchmarkSubject]:
    """Subjects of a folder that has a folder of photos for each.

    Args:
        listing: the file that names class words and prompts; None looks for one of `DATA_SET_FILES` in the folder.
        only: names of subjects; None is all that are listed.
        released_words: in the data set's own text file, use the class words of the released evaluation.

    Raises:
        SubjectError: no folder, no or a malformed listing, an unknown subject, a subject without photos.
    """
    if not folder.is_dir():
        raise SubjectError(f"There is no folder {folder} with the subjects' photos.")
    found = read_listing(listing or _find_listing(folder), released_words)
    names = list(found.subjects) if only is None else only
    if unknown := [name for name in names if name not in found.subjects]:
        raise SubjectError(f"The benchmark lists no {unknown[0]!r}; it has {', '.join(found.subjects)}.")
    photos = {name: picture_paths(folder / _checked_name(name)) for name in names}
    if missing := [name for name in names if not photos[name]]:
        raise SubjectError(
            f"There are no photos in {folder} for {', '.join(missing)}. Add a folder with photos for each, or choose "
            "subjects with --subjects."
        )
    return [_subject(found, name, photos[name]) for name in dict.fromkeys(names)]


def _subject(found: Listing, name: str, photos: list[Path]) -> BenchmarkSubject:
    category, list_name = found.subjects[name]
    prompts = tuple(Prompt(template) for template in found.prompts[list_name])
    return BenchmarkSubject(name, normalise_category(category), prompts, tuple(photos))


def _checked_name(name: str) -> str:
    if not _PLAIN_NAME.fullmatch(name):
        raise SubjectError(f"The subject's name {name!r} cannot be a folder's; use letters, digits, - and _.")
    return name


def _find_listing(folder: Path) -> Path:
    for name in DATA_SET_FILES:
        if (folder / name).is_file():
            return folder / name
    raise SubjectError(f"{folder} has none of {', '.join(DATA_SET_FILES)}; name the file with --benchmark.")
