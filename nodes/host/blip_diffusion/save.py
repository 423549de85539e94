"""Saving a subject, with the weights on a MODEL that were tuned for it, and loading it again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from ....blipdiff_impl.blip_diffusion.subject import Subject
from ....blipdiff_impl.blip_diffusion.subject_file import TunedWeights, read_subject, write_subject
from ....blipdiff_impl.errors import NameTaken
from ..notices import tell
from ..schema import blocked
from .subject_folders import listed_name, new_paths, subject_path
from .tuned_weights import Collected, apply_tuned, collect_tuned

_UNTUNED = "The MODEL carries no weights of Subject Finetune."
_MERGED_AWAY = "The MODEL samples without its tuning, which a later node merged away."
_NO_MODEL = "Load Subject gives a MODEL only if one is connected to it."

log = logging.getLogger(__name__)


def save_subject(
    subject: Subject, filename_prefix: str, model=None, rank: int | None = None, picture: Tensor | None = None
) -> tuple[str, str]:
    """Write a new file; returns its name in the list, and a sentence for people on what it holds.

    Args:
        model: its tuned weights are saved too.
        rank: see `collect_tuned`.
        picture: IMAGE whose first is kept in the file, small.

    Raises:
        SubjectError: a name or picture that cannot be used, or a full disk.
    """
    paths = new_paths(filename_prefix)
    collected = None if model is None else collect_tuned(model, rank)
    if model is not None and not (collected and collected.tuned):
        tell(f"{_MERGED_AWAY if collected else _UNTUNED} The file holds the vectors alone.")
    path = _write(paths, subject, collected.tuned if collected else None, picture)
    report = _report(subject, collected, path.stat().st_size)
    name = listed_name(path)
    log.info("Saved %s: %s.", path, report)
    word = name.removesuffix(path.suffix)
    tell(f"Saved {name}: {report}.\nIn a prompt, for ComfyUI's own nodes: embedding:{word}", logged=False)
    return name, report


def _write(paths: Iterator[Path], subject: Subject, tuned: TunedWeights | None, picture: Tensor | None) -> Path:
    """Write under the first name that nobody else takes."""
    while True:
        path = next(paths)
        try:
            write_subject(path, subject, tuned, picture=picture)
        except NameTaken:
            continue
        return path


def load_subject(name: str, model=None) -> tuple[object, Subject, Tensor | None]:
    """MODEL (with the weights of the file added where it holds any), SUBJECT, and its picture where there is one.

    Raises:
        SubjectError: the file is missing, damaged or of another kind, or its weights do not fit the MODEL.
    """
    saved = read_subject(subject_path(name))
    if model is None:
        if saved.tuned:
            tell(f"{name} holds tuned weights too; connect a MODEL to Load Subject to use them.")
        return blocked(_NO_MODEL), saved.subject, saved.picture
    return apply_tuned(model, saved.tuned) if saved.tuned else model, saved.subject, saved.picture


def _report(subject: Subject, collected: Collected | None, size: int) -> str:
    what = f"{len(subject)} subject{'s' * (len(subject) > 1)} ({subject.category or 'no category'})"
    if collected and collected.tuned:
        tuned = collected.tuned
        what += f", weights of {tuned.steps} steps ({tuned.method})" + ", as merged later" * (not collected.as_tuned)
        what += f", {collected.loss:.2%} of their change lost"
    elif collected:
        what += ", no weights (the tuning was merged away)"
    if collected and collected.left_out:
        what += ", LoRAs and changes of other nodes left out"
    return f"{what}, {size / 1e6:.2f} MB"
