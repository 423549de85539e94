"""Blends of subjects in the form that sockets carry, and the sheet to look at them."""

from __future__ import annotations

from torch import Tensor

from ...blipdiff_impl.blends import blend
from ...blipdiff_impl.contact_sheet import contact_sheet
from ...blipdiff_impl.interpolation import MODES
from ...blipdiff_impl.subject import Subject

__all__ = ["MODES", "blend_subjects", "labelled_sheet"]


def blend_subjects(
    subjects: list[Subject | None], mode: str, columns: int, rows: int, weights: str, first: float, last: float
) -> tuple[Subject, int, str]:
    """The SUBJECT, how many it holds, and their labels, a line for each; None is an input that is not connected.

    Raises:
        SubjectError: see `blends.blend`.
    """
    connected = [subject for subject in subjects if subject is not None]
    blended = blend(connected, mode, columns, rows, weights, first, last)
    return blended.subject, len(blended.subject), "\n".join(blended.labels)


def labelled_sheet(images: Tensor, columns: int, labels: str) -> Tensor:
    """One IMAGE of all images, with labels given a line for each; empty lines at the end do not count.

    Raises:
        SubjectError: another number of labels than images.
    """
    return contact_sheet(images, columns, labels.rstrip().splitlines())
