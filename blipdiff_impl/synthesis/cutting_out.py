"""Matting of a photo in which the subject fills a part only: that part is matted, the rest is background."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from ..files import as_tensor
from ..matting.matte import Matte, matte
from .rejects import MATTING, Rejected
from .segmenting import surroundings

# Background around all that may be subject, as a part of the photo's longer side: the colours beside it tell matting
# what the subject is not, and those farther off do not matter.
_MARGIN = 0.05


def cut_out(picture: Image.Image, trimap: Tensor, working_side: int) -> Matte:
    """Alpha and the subject's own colours, of the photo's size; colours where alpha is surely 0 are the photo's.

    Args:
        trimap: `[H, W]` with some 0 and some 1.
        working_side: longer side that alpha of the part is solved at.

    Raises:
        Rejected: matting failed.
        SubjectError: a trimap of another size.
    """
    photo = as_tensor(picture)
    place = surroundings(trimap > 0, max(4, round(_MARGIN * max(trimap.shape))))
    try:
        part = matte(photo[place], trimap[place], working_side)
    # ValueError: no convergence, or a SubjectError; RuntimeError: a singular factor.
    except (ValueError, RuntimeError) as error:
        raise Rejected(MATTING, str(error)) from error
    alpha, foreground = trimap.clone(), photo
    alpha[place], foreground[place] = part.alpha, part.foreground
    return Matte(alpha, foreground)
