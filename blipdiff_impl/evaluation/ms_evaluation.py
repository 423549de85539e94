"""MS-Bench on pictures that lie in folders: each picture against the photos of all its subjects and against its prompt
(docs/method.md 13.9)."""

from __future__ import annotations

import statistics
from html import escape
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..errors import SubjectError
from ..files import write_json, write_whole
from .layout import find_runs, pictures_of, prompt_of
from .ms_bench import Combination
from .report import page_of, table_of
from .scoring import Scorer, mean_cosines

METRICS = ("clip_i", "dino", "m_dino", "clip_t")
_TITLES = {"clip_i": "CLIP-I", "dino": "DINO", "m_dino": "M-DINO", "clip_t": "CLIP-T"}
# The authors' figures, and those that they give for others.
PUBLISHED = {
    "λ-ECLIPSE": (0.724, 0.419, 0.094, 0.316),
    "SSR-Encoder": (0.725, 0.425, 0.107, 0.303),
    "MS-Diffusion": (0.698, 0.425, 0.108, 0.341),
}


class CombinationScorer(Scorer):
    """Scores of pictures with several subjects; "m_dino" is the product of the subjects' DINO scores."""

    def _scores(self, subject: Any, paths: list[Path], pictures: list[Image.Image]) -> list[dict]:
        judges = self._judges
        dino, clip = judges.dino.pictures(pictures), judges.clip.pictures(pictures)
        photos = [self.photos(part) for part in subject.parts]
        alike = torch.stack([mean_cosines(dino, each.dino) for each in photos])
        texts = torch.stack([self._text(subject, prompt_of(path)) for path in paths])
        columns = {
            "dino": alike.mean(0),
            # A subject that is not there counts nothing; two that are unlike do not make one that is alike.
            "m_dino": alike.clamp(min=0).prod(0),
            "clip_i": torch.stack([mean_cosines(clip, each.clip) for each in photos]).mean(0),
            "clip_t": (clip * texts).sum(-1),
        }
        lists = {name: column.tolist() for name, column in columns.items()}
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def evaluate_ms_bench(
    title: str, benchmark: list[Combination], pictures: Path, scorer: CombinationScorer, out: Path
) -> dict:
    """Score every picture; write `results.json` and `report.html`. What is scored already is found again.

    Args:
        pictures: folders `<run>/<combination>/<prompt>_<anything>.png`; see `layout`.

    Returns:
        What `results.json` holds.

    Raises:
        SubjectError: no pictures, a photo that cannot be read, a name without prompt.
    """
    known: Any = benchmark  # a combination has what the functions below ask of a subject
    scores: dict[str, list[dict[str, float]]] = {}
    runs = find_runs(pictures, known)
    for run, folder in runs.items():
        for combination in known:
            paths = pictures_of(folder, combination)
            found = scorer.score(run, combination, paths).pictures.values() if paths else []
            scores.setdefault(combination.kind, []).extend(found)
    everything = [each for of_kind in scores.values() for each in of_kind]
    if not everything:
        raise SubjectError(f"{pictures} holds no picture that can be read.")
    record = {
        "title": title,
        "pictures": len(everything),
        "combinations": len(benchmark),
        "runs": list(runs),
        "overall": _means(everything),
        "types": {kind: _means(found) | {"pictures": len(found)} for kind, found in scores.items() if found},
        "published": {name: dict(zip(METRICS, row, strict=True)) for name, row in PUBLISHED.items()},
    }
    write_json(out / "results.json", record)
    write_whole(out / "report.html", _page(record).encode())
    return record


def _means(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(each[name] for each in found) for name in METRICS}


def _page(record: dict) -> str:
    rows = [("here", *_numbers(record["overall"]))]
    rows += [(f"published: {escape(name)}", *_numbers(row)) for name, row in record["published"].items()]
    kinds = [(escape(kind), row["pictures"], *_numbers(row)) for kind, row in record["types"].items()]
    heads = tuple(_TITLES.values())
    body = [
        f"<h1>{escape(record['title'])}</h1>",
        f"<p>{record['pictures']} pictures, {len(record['runs'])} runs, {record['combinations']} combinations.</p>",
        "<h2>Means</h2>",
        table_of(("", *heads), rows),
        "<h2>Types of combinations</h2>",
        table_of(("type", "pictures", *heads), kinds),
    ]
    return page_of(record["title"], body)


def _numbers(row: dict[str, float]) -> list[str]:
    return [f"{row[name]:.3f}" for name in METRICS]
