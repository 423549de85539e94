"""One evaluation from pictures in folders to results and report; says nothing of how the pictures were made."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import SubjectError
from ..files import read_json, write_json
from ..settings import require_same
from .averages import METRICS, Row, pooled
from .benchmark import BenchmarkSubject
from .layout import find_runs, pictures_of
from .report import write_report
from .results import Results, collect, write_results
from .scoring import Scorer, SubjectScores, mean_cosine_among

log = logging.getLogger(__name__)


def evaluate(
    title: str,
    subjects: list[BenchmarkSubject],
    pictures: Path,
    scorer: Scorer,
    out: Path,
    settings: dict,
    images: int | None = None,
    only_runs: list[str] | None = None,
) -> Results:
    """Score every picture, write `results.json`, `results.csv` and `report.html`.

    Args:
        pictures: the folder of runs, see `layout`.
        images: how many there should be of each prompt, where it is known.
        only_runs: names of the runs that count; None is all.

    Raises:
        SubjectError: no pictures, a photo that cannot be read, a name without prompt.
    """
    runs = find_runs(pictures, subjects)
    if only_runs is not None:
        runs = {name: runs[name] for name in only_runs}
    files = {run: {s.name: pictures_of(folder, s) for s in subjects} for run, folder in runs.items()}
    scores = {run: [_score(scorer, run, s, files[run][s.name], images) for s in subjects] for run in runs}
    if not any(one.pictures for of_run in scores.values() for one in of_run):
        raise SubjectError(f"{pictures} holds no picture that can be read.")
    results = collect(title, scores, real_row(scorer, subjects), settings)
    write_results(results, out)
    shown = next(iter(runs))
    page = write_report(results, subjects, files[shown], shown, out)
    log.info("%s", page)
    return results


def real_row(scorer: Scorer, subjects: list[BenchmarkSubject]) -> Row:
    """The photos among themselves: cosines of all pairs of different photos of a subject, pooled over subjects."""
    rows = []
    for subject in subjects:
        photos = scorer.photos(subject)
        values = {"dino": mean_cosine_among(photos.dino), "clip_i": mean_cosine_among(photos.clip)}
        known = {name: value for name, value in values.items() if value is not None}
        count = len(subject.photos)
        rows.append(Row(known, {name: count * (count - 1) // 2 for name in known}))
    return pooled(rows)


def require_same_settings(file: Path, settings: dict) -> None:
    """Note in a file how pictures are drawn; refuse to resume with other settings.

    Raises:
        SubjectError: names what differs, with both values.
    """
    before = read_json(file)
    if before is None:
        write_json(file, settings)
    else:
        complaint = f"{file} says that its pictures were drawn with other settings"
        require_same(before, settings, complaint, "Use them again, or another --out.")


def summary(results: Results) -> str:
    """The means in one line."""
    parts = [
        f"{name} {spread.mean:.3f}" + (f" ± {spread.deviation:.3f}" if spread.deviation is not None else "")
        for name in METRICS
        if (spread := results.overall.get(name))
    ]
    return f"{results.counted} pictures: {', '.join(parts)}"


def _score(scorer: Scorer, run: str, subject: BenchmarkSubject, paths: list[Path], images: int | None) -> SubjectScores:
    expected = None if images is None else images * len(subject.prompts)
    return scorer.score(run, subject, paths, expected)
