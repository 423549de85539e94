"""A subject of what artists connect: a reference, its name, and a box in one of the forms that they have."""

from __future__ import annotations

from torch import Tensor

from ....blipdiff_impl.attention.boxes import Box, box_from_mask, box_from_pixels, box_from_shares
from ....blipdiff_impl.errors import SubjectError
from ....blipdiff_impl.ms_diffusion.phrases import checked_phrase
from ....blipdiff_impl.ms_diffusion.references import cut_out
from ....blipdiff_impl.ms_diffusion.subjects import PlacedSubject, PlacedSubjects
from ..refusals import first_refusal, typed


def phrase_refusal(phrase) -> bool | str:
    """A phrase that is typed and cannot name a subject."""
    text = typed(phrase)
    return first_refusal(("phrase", lambda: text is None or checked_phrase(text)))


def add_subject(
    image: Tensor,
    phrase: str,
    box: Box,
    strength: float,
    canvas: tuple[int, int],
    mask: Tensor | None = None,
    previous: PlacedSubjects | None = None,
) -> PlacedSubjects:
    """The subjects so far, and this one.

    Args:
        image: one photo `[1, H, W, 1 | 3 | 4]`.
        canvas: (width, height) on which boxes are shown.
        mask: `[1, H, W]`, white on the subject, which is cut out of the photo.

    Raises:
        SubjectError: a phrase, photo or mask that cannot be used.
    """
    phrase = checked_phrase(phrase)
    subject = PlacedSubject(cut_out(image, mask), phrase, box, strength, canvas)
    return (previous or PlacedSubjects()).and_one(subject)


def chosen_box(
    shares: tuple[float, float, float, float],
    pixels: object = None,
    number: int = 1,
    canvas: tuple[int, int] = (1024, 1024),
    mask: Tensor | None = None,
) -> Box:
    """The box, from whichever form is connected.

    Args:
        shares: left, top, right, bottom, cut off at 0 and 1; counts where nothing else is connected.
        pixels: BOUNDING_BOX in any form of the host.
        number: which of those boxes, from 1.
        canvas: (width, height) in pixels that they were drawn on.
        mask: its tight rectangle is the box.

    Raises:
        SubjectError: two forms at once, or a box that cannot be used.
    """
    if pixels is not None and mask is not None:
        raise SubjectError("Both box and box_mask are connected, and they may differ. Connect one of them.")
    if mask is not None:
        return box_from_mask(mask)
    return box_from_shares(*shares) if pixels is None else box_from_pixels(pixels, canvas, number)
