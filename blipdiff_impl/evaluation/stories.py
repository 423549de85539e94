"""VIST and VisDial from local files, as GILL's evaluations use them: contexts of several lengths that end in one
picture (docs/method.md 14.11)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SubjectError, shown
from ..files import PICTURE_TYPES, read_text
from ..untrusted import parse_json

VIST, VISDIAL = PROTOCOLS = ("vist", "visdial")
ROUNDS = (1, 5, 10)
_STORY = 5  # pictures of a story; the last one is to be drawn


@dataclass(frozen=True)
class Trial:
    """One picture that is to be drawn, and what is known before.

    Attributes:
        name: of its files.
        target: the picture as it is.
        caption: its own; empty where the data has none.
        contexts: by name what is read, texts and pictures in their order; all in the order of their length.
    """

    name: str
    target: Path
    caption: str
    contexts: Mapping[str, tuple[str | Path, ...]]


def open_trials(protocol: str, annotations: Path, pictures: Path, most: int = 0) -> list[Trial]:
    """The trials of a data set, in the order of its file; those with a picture that is not there are left out.

    Args:
        protocol: "vist" (`val.story-in-sequence.json`) or "visdial" (`visdial_1.0_val.json`).
        pictures: folder of its pictures; of VIST `<photo_flickr_id>.jpg`.
        most: at most so many; 0 is all.

    Raises:
        SubjectError: no such file, of another form, or no trial whose pictures are there.
    """
    try:
        record = parse_json(read_text(annotations, "The annotations"))
    except ValueError as error:
        raise SubjectError(f"The annotations {annotations} are no JSON ({error}).") from error
    make = _stories if protocol == VIST else _dialogues
    try:
        found = [trial for trial in make(record, pictures) if _all_there(trial)]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise SubjectError(
            f"The annotations {annotations} are not those of {protocol}: {shown(str(error), 60)}. See "
            "docs/evaluation.md for what is read of them."
        ) from None
    if not found:
        raise SubjectError(
            f"No trial of {annotations} has all its pictures in {pictures}. Name the folder that holds them."
        )
    return found[:most] if most else found


def _stories(record: Any, pictures: Path) -> Iterator[Trial]:
    """Stories of five pictures with a sentence each; the fifth picture is to be drawn."""
    told: dict[str, list[tuple[int, str, Path]]] = {}
    for (sentence,) in record["annotations"]:
        place, text = int(sentence["worker_arranged_photo_order"]), sentence["original_text"]
        entry = place, text.strip(), _picture(pictures, str(sentence["photo_flickr_id"]))
        told.setdefault(str(sentence["story_id"]), []).append(entry)
    for name, sentences in told.items():
        if len(sentences) != _STORY:
            continue
        ordered = sorted(sentences, key=lambda each: each[0])
        texts = [text for _, text, _ in ordered]
        mixed = [item for text, (_, _, path) in zip(texts, ordered[:-1], strict=False) for item in (text, path)]
        contexts: dict[str, tuple[str | Path, ...]] = {
            "1 caption": (texts[-1],), "5 captions": (" ".join(texts),), "5 captions, 4 images": (*mixed, texts[-1]),
        }  # fmt: skip
        yield Trial(f"story_{int(name)}", ordered[-1][2], texts[-1], contexts)


def _dialogues(record: Any, pictures: Path) -> Iterator[Trial]:
    """Ten questions about a picture with their answers; the picture is to be drawn from the first of them."""
    data = record["data"]
    questions, answers = data["questions"], data["answers"]
    for dialogue in data["dialogs"]:
        number = int(dialogue["image_id"])
        rounds = [f"Q: {questions[each['question']]}?\nA: {answers[each['answer']]}" for each in dialogue["dialog"]]
        contexts: dict[str, tuple[str | Path, ...]] = {
            f"{count} round{'s' if count > 1 else ''}": ("\n".join(rounds[:count]),) for count in ROUNDS
        }
        target = _picture(pictures, f"VisualDialog_val2018_{number:012d}")
        yield Trial(f"dialogue_{number}", target, str(dialogue.get("caption", "")), contexts)


def _picture(folder: Path, stem: str) -> Path:
    """The file of a picture, whatever its kind; no name leads out of the folder."""
    if not stem or "/" in stem or "\\" in stem or stem.startswith("."):
        raise ValueError(f"{stem!r} is no name of a picture")
    there = [folder / f"{stem}{ending}" for ending in PICTURE_TYPES]
    return next((path for path in there if path.is_file()), there[0])


def _all_there(trial: Trial) -> bool:
    read = {item for items in trial.contexts.values() for item in items if isinstance(item, Path)}
    return all(path.is_file() for path in (trial.target, *read))
