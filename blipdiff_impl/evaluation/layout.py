"""Where generated pictures lie: `<run>/<subject>/<prompt>_<anything>.png`, the prompt as its number from 0.

ComfyUI writes such names with the prefix `1000/cat/07`. A folder whose folders are the subjects is one run.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import SubjectError
from ..files import picture_paths
from .benchmark import BenchmarkSubject

ONE_RUN = "pictures"
_NUMBER = re.compile(r"(\d+)_")


def picture_name(prompt: int, image: int) -> str:
    """File name of image number `image` (from 0) of a prompt."""
    return f"{prompt:02d}_{image}.png"


def prompt_of(path: Path) -> int:
    """Number of the prompt that a picture was made with.

    Raises:
        SubjectError: the name does not say.
    """
    match = _NUMBER.match(path.name)
    if match is None:
        raise SubjectError(f"{path} should be named after its prompt's number, such as 07_0.png for the eighth prompt.")
    return int(match[1])


def find_runs(folder: Path, subjects: list[BenchmarkSubject]) -> dict[str, Path]:
    """Folders of the runs by name, in order: those that hold a folder of one of the subjects.

    Raises:
        SubjectError: there is none.
    """
    names = {subject.name for subject in subjects}
    if _holds_any(folder, names):
        return {ONE_RUN: folder}
    runs = {path.name: path for path in sorted(folder.glob("*"), key=_by_number) if _holds_any(path, names)}
    if not runs:
        raise SubjectError(f"{folder} holds no pictures of {', '.join(sorted(names))}, each in a folder of its name.")
    return runs


def pictures_of(run: Path, subject: BenchmarkSubject) -> list[Path]:
    """The subject's pictures in a run, by prompt and name.

    Raises:
        SubjectError: a picture's name says no prompt, or one that the subject does not have.
    """
    found = []
    for path in picture_paths(run / subject.name):
        number = prompt_of(path)
        if number >= len(subject.prompts):
            raise SubjectError(
                f"{path} says prompt {number}, but {subject.name} has prompts 0 to {len(subject.prompts) - 1}."
            )
        found.append((number, path.name, path))
    return [path for _, _, path in sorted(found)]


def _holds_any(folder: Path, names: set[str]) -> bool:
    return any((folder / name).is_dir() for name in names)


def _by_number(path: Path) -> tuple[int, str]:
    return (int(path.name) if path.name.isdecimal() else 0, path.name)
