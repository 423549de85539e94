"""Saving a subject, with the weights on a MODEL that were tuned for it, and loading it again."""

from __future__ import annotations

import logging

from ...blipdiff_impl.subject import Subject
from ...blipdiff_impl.subject_file import read_subject, write_subject
from .schema import blocked
from .subject_folders import listed_name, new_path, subject_path
from .tuned_weights import Collected, apply_tuned, collect_tuned

_NO_MODEL = "Load Subject gives a MODEL only if one is connected to it."

log = logging.getLogger(__name__)


def save_subject(subject: Subject, filename_prefix: str, model=None, rank: int | None = None) -> tuple[str, str]:
    """Write a new file; returns its name in the list, and a sentence for people on what it holds.

    Args:
        model: its tuned weights are saved too.
        rank: see `collect_tuned`.

    Raises:
        SubjectError: a name that cannot be used, or a full disk.
    """
    path = new_path(filename_prefix)
    collected = None
    if model is not None:
        collected = collect_tuned(model, rank)
        if collected is None:
            log.warning("The MODEL carries no weights of Subject Finetune; %s holds the vectors alone.", path.name)
    write_subject(path, subject, collected.tuned if collected else None)
    report = _report(subject, collected, path.stat().st_size)
    log.info("Saved %s: %s.", path, report)
    return listed_name(path), report


def load_subject(name: str, model=None) -> tuple[object, Subject]:
    """MODEL (with the weights of the file added where it holds any) and SUBJECT.

    Raises:
        SubjectError: the file is missing, damaged or of another kind, or its weights do not fit the MODEL.
    """
    saved = read_subject(subject_path(name))
    if model is None:
        if saved.tuned:
            log.warning("%s holds tuned weights too; connect a MODEL to Load Subject to use them.", name)
        return blocked(_NO_MODEL), saved.subject
    return apply_tuned(model, saved.tuned) if saved.tuned else model, saved.subject


def _report(subject: Subject, collected: Collected | None, size: int) -> str:
    what = f"{len(subject)} subject{'s' * (len(subject) > 1)} ({subject.category or 'no category'})"
    if collected:
        tuned = collected.tuned
        what += f", weights of {tuned.steps} steps ({tuned.method}), {collected.loss:.2%} of their change lost"
    return f"{what}, {size / 1e6:.2f} MB"
