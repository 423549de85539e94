"""The contact sheet with labels as text."""

from __future__ import annotations

from torch import Tensor

from ...blipdiff_impl.pictures.contact_sheet import contact_sheet


def labelled_sheet(images: Tensor, columns: int, labels: str) -> Tensor:
    """One IMAGE of all images, with labels given a line for each; empty lines at the end do not count.

    Raises:
        SubjectError: another number of labels than images.
    """
    return contact_sheet(images, columns, labels.rstrip().splitlines())
