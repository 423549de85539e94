"""Blends of subjects in the form that sockets carry."""

from __future__ import annotations

from ....blipdiff_impl.blip_diffusion.blends import blend
from ....blipdiff_impl.blip_diffusion.interpolation import MODES
from ....blipdiff_impl.blip_diffusion.subject import Subject

__all__ = ["MODES", "blend_subjects"]


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
