"""The results as one HTML page: tables beside the paper's, and contact sheets whose thumbnails lie beside it.

The page asks nothing of a network and runs no script.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from ..files import UnreadablePicture, read_picture, write_whole
from .averages import METRICS, Row
from .benchmark import BenchmarkSubject
from .layout import prompt_of
from .published import AESTHETIC, SUBJECTS, TABLE_1
from .results import Results

_TITLES = {"dino": "DINO", "clip_i": "CLIP-I", "clip_t": "CLIP-T", "aesthetic": "aesthetic"}
_THUMBNAIL = 160  # pixels of the longer side
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { display: inline-block; margin: .2rem; vertical-align: top; }
img { display: block; max-width: 160px; }
figcaption { font-size: 12px; color: #666; }
.warning { background: #fff3cd; padding: .5rem 1rem; }
"""


def write_report(
    results: Results,
    subjects: Sequence[BenchmarkSubject],
    pictures: dict[str, list[Path]],
    shown_run: str,
    folder: Path,
) -> Path:
    """Write `report.html` and `thumbnails/`; returns the page.

    Args:
        pictures: of the run that is shown, by name of the subject.
        shown_run: its name.
    """
    sheets = [_sheet(results, subject, pictures.get(subject.name, []), shown_run, folder) for subject in subjects]
    body = [
        f"<h1>{escape(results.title)}</h1>",
        _summary(results),
        "<h2>Means</h2>",
        _means(results),
        "<h2>Runs</h2>",
        _runs(results),
        "<h2>Subjects</h2>",
        _subjects(results),
        f"<h2>Pictures of run {escape(shown_run)}</h2>",
        *sheets,
        "<h2>Settings</h2>",
        table_of(("setting", "value"), [(escape(name), escape(str(v))) for name, v in results.settings.items()]),
    ]
    path = folder / "report.html"
    write_whole(path, page_of(results.title, body).encode())
    return path


def page_of(title: str, body: Sequence[str]) -> str:
    """A page of its own; the parts of its body are HTML already."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _summary(results: Results) -> str:
    expected = "" if results.expected is None else f" of {results.expected}"
    text = f"<p>{results.counted}{expected} pictures, {len(results.runs)} runs, {len(results.subjects)} subjects.</p>"
    if results.expected is not None and results.counted < results.expected:
        text += '<p class="warning">Some pictures are missing; the numbers are those of the others.</p>'
    if results.unreadable:
        names = ", ".join(escape(name) for name in results.unreadable)
        text += f'<p class="warning">Left out, as they cannot be read as pictures: {names}.</p>'
    return text


def _means(results: Results) -> str:
    ours = [
        f"{_number(spread.mean)}{'' if spread.deviation is None else f' ± {_number(spread.deviation)}'}"
        if (spread := results.overall.get(metric))
        else "–"
        for metric in METRICS
    ]
    rows = [
        ("here, over all pairs", *ours),
        ("here, each subject counting alike", *(_number(results.plain.get(metric)) for metric in METRICS)),
        ("here, real photos", *_cells(results.real)),
    ]
    for name, row in TABLE_1.items():
        rows.append((f"paper: {escape(name)}", *(_number(value) for value in row), _number(AESTHETIC.get(name))))
    return table_of(("", *_TITLES.values()), rows)


def _runs(results: Results) -> str:
    return table_of(("run", *_TITLES.values()), [(escape(n), *_cells(row)) for n, row in results.run_rows.items()])


def _subjects(results: Results) -> str:
    names = list(_TITLES.values())[:3]
    heads = (
        "subject",
        *_TITLES.values(),
        *(f"paper zero-shot {n}" for n in names),
        *(f"fine-tuned {n}" for n in names),
    )
    rows = []
    for name, row in results.subjects.items():
        known = SUBJECTS.get(name)
        theirs = [_number(v) for v in (*known.zero_shot, *known.fine_tuned)] if known else ["–"] * 6
        rows.append((escape(name), *_cells(row), *theirs))
    return table_of(heads, rows)


def _sheet(results: Results, subject: BenchmarkSubject, paths: list[Path], run: str, folder: Path) -> str:
    """Photos, then the pictures of each prompt."""
    scores = next((s.pictures for s in results.runs[run] if s.name == subject.name), {})
    photos = "".join(_figure(path, "", Path("photos") / subject.name, folder) for path in subject.photos)
    lines = [f"<details><summary>{escape(subject.name)} ({escape(subject.category)})</summary><div>{photos}</div>"]
    for number, prompt in enumerate(subject.prompts):
        drawn = [path for path in paths if prompt_of(path) == number]
        figures = "".join(_figure(p, _caption(scores.get(p.name)), Path(run) / subject.name, folder) for p in drawn)
        lines.append(f"<h4>{number:02d} {escape(prompt.text(subject.category))}</h4><div>{figures}</div>")
    return "\n".join([*lines, "</details>"])


def _caption(scores: dict[str, float] | None) -> str:
    return " ".join(f"{_TITLES[name]} {value:.3f}" for name, value in (scores or {}).items())


def _figure(picture: Path, caption: str, place: Path, folder: Path) -> str:
    """A thumbnail, made where it is missing or older than the picture."""
    relative = Path("thumbnails") / place / f"{picture.name}.jpg"
    thumbnail = folder / relative
    if not thumbnail.exists() or thumbnail.stat().st_mtime < picture.stat().st_mtime:
        try:
            write_whole(thumbnail, _thumbnail(picture))
        except UnreadablePicture:
            return f"<figure><figcaption>{escape(picture.name)} cannot be read</figcaption></figure>"
    source, name = quote(relative.as_posix()), escape(picture.name)
    image = f'<img src="{source}" alt="{name}" title="{name}" loading="lazy">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _thumbnail(path: Path) -> bytes:
    picture = read_picture(path)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _cells(row: Row) -> list[str]:
    return [_number(row.values.get(metric)) for metric in METRICS]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
