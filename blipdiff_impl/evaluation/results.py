"""The results of an evaluation as one record, and as JSON and CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from ..files import write_json, write_whole
from .averages import METRICS, Row, Spread, over_runs, plain_mean, pooled, subject_row
from .published import AESTHETIC, SUBJECTS, TABLE_1
from .scoring import SubjectScores


@dataclass(frozen=True)
class Results:
    """All numbers.

    Attributes:
        title: what was judged.
        runs: each run's subjects, by name of the run.
        subjects: each subject's row, pooled over the runs.
        run_rows: each run's row, pooled over its subjects.
        overall: mean and spread of those rows over the runs.
        plain: the mean over subjects that counts each alike, as over the rows of tables 5 and 6.
        real: the photos among themselves.
        settings: what to know to repeat it.
    """

    title: str
    runs: dict[str, list[SubjectScores]]
    subjects: dict[str, Row]
    run_rows: dict[str, Row]
    overall: dict[str, Spread]
    plain: dict[str, float]
    real: Row
    settings: dict

    @property
    def unreadable(self) -> list[str]:
        """Files that are no pictures, `run/subject/name`."""
        return [
            f"{run}/{s.name}/{file}" for run, subjects in self.runs.items() for s in subjects for file in s.unreadable
        ]

    @property
    def counted(self) -> int:
        """Pictures that the numbers are made of."""
        return sum(len(s.pictures) for subjects in self.runs.values() for s in subjects)

    @property
    def expected(self) -> int | None:
        """Pictures that there should be, where that is known."""
        numbers = [s.expected for subjects in self.runs.values() for s in subjects]
        stated = [number for number in numbers if number is not None]
        return sum(stated) if len(stated) == len(numbers) else None


def collect(title: str, runs: dict[str, list[SubjectScores]], real: Row, settings: dict) -> Results:
    """Make all tables from the scores."""
    rows = {run: {s.name: subject_row(s) for s in subjects} for run, subjects in runs.items()}
    names = list(dict.fromkeys(name for subjects in rows.values() for name in subjects))
    by_subject = {name: pooled(rows[run][name] for run in rows if name in rows[run]) for name in names}
    run_rows = {run: pooled(subjects.values()) for run, subjects in rows.items()}
    overall, plain = over_runs(run_rows.values()), plain_mean(by_subject.values())
    return Results(title, runs, by_subject, run_rows, overall, plain, real, settings)


def write_results(results: Results, folder: Path) -> None:
    """`results.json` and `results.csv` in the folder."""
    write_json(folder / "results.json", as_record(results))
    write_whole(folder / "results.csv", as_csv(results).encode())


def as_record(results: Results) -> dict:
    """The numbers beside the paper's, for `results.json`."""
    return {
        "title": results.title,
        "settings": results.settings,
        "pictures": results.counted,
        "expected": results.expected,
        "unreadable": results.unreadable,
        "overall": {name: vars(spread) for name, spread in results.overall.items()},
        "plain_mean_over_subjects": results.plain,
        "real_photos": results.real.values,
        "runs": {name: row.values for name, row in results.run_rows.items()},
        "subjects": {name: _subject_record(name, row) for name, row in results.subjects.items()},
        "paper": {
            "table_1": {name: row._asdict() for name, row in TABLE_1.items()},
            "table_3_aesthetic": AESTHETIC,
        },
    }


def as_csv(results: Results) -> str:
    """One line for each subject, then the mean; the paper's columns are empty for subjects of other benchmarks."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    paper = [f"paper_{kind}_{metric}" for kind in ("zero_shot", "fine_tuned") for metric in METRICS[:3]]
    writer.writerow(["subject", *METRICS, *paper])
    for name, row in results.subjects.items():
        known = SUBJECTS.get(name)
        theirs = [*known.zero_shot, *known.fine_tuned] if known else [""] * len(paper)
        writer.writerow([name, *(row.values.get(metric, "") for metric in METRICS), *theirs])
    means = [results.overall[metric].mean if metric in results.overall else "" for metric in METRICS]
    theirs = [*TABLE_1["BLIP-Diffusion zero-shot"], *TABLE_1["BLIP-Diffusion fine-tuned"]]
    writer.writerow(["mean over all pairs", *means, *theirs])
    return buffer.getvalue()


def _subject_record(name: str, row: Row) -> dict:
    known = SUBJECTS.get(name)
    paper = {kind: getattr(known, kind)._asdict() for kind in ("zero_shot", "fine_tuned")} if known else None
    return {"scores": row.values, "paper": paper}
