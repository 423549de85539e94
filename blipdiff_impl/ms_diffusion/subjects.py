"""What artists say of their subjects: a reference, a phrase, a box and a strength for each, in their order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..attention.boxes import Box

TRAINED_ON = 4  # subjects in a picture of the released adapter's training, at most


@dataclass(frozen=True, eq=False)
class PlacedSubject:
    """One subject and its place.

    Attributes:
        image: the reference as `cut_out` gives it, `[1, h, w, 3]` in 0..1.
        phrase: what it is called, as `checked_phrase` gives it.
        box: its place in the picture to be.
        strength: 0 to 10; 1 is as strong as the adapter's scale says.
        canvas: (width, height) of what the box was drawn on, for showing it.
    """

    image: Tensor
    phrase: str
    box: Box
    strength: float
    canvas: tuple[int, int]


@dataclass(frozen=True, eq=False)
class PlacedSubjects:
    """All subjects of a picture; what the socket MS_SUBJECTS carries.

    Attributes:
        placed: in the order in which they were added.
    """

    placed: tuple[PlacedSubject, ...] = ()

    def and_one(self, subject: PlacedSubject) -> PlacedSubjects:
        """These and one more."""
        return replace(self, placed=(*self.placed, subject))


def notice(count: int) -> str | None:
    """A sentence on more subjects than any picture of the training had; None for fewer."""
    if count <= TRAINED_ON:
        return None
    return (
        f"There are {count} subjects; the released adapter was trained on {TRAINED_ON} at most. Expect some to be weak "
        "or missing, and give the others room: boxes that do not overlap."
    )
