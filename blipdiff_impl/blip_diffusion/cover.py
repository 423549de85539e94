"""The picture of a saved subject: a small one in the file's metadata, where ComfyUI's list of models looks for it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping

from PIL import Image
from torch import Tensor

from ..errors import SubjectError, shown
from ..files import as_tensor, read_picture
from ..pictures.pixels import to_pillow

COVER = "ssmd_cover_images"  # a JSON list of pictures in base64; also that of training tools for LoRAs
SIDE = 256
_LONGEST = 2**20  # letters; of this size it is no small picture


def cover_metadata(image: Tensor) -> dict[str, str]:
    """What goes into a file's metadata for pictures `[N, H, W, 1 | 3 | 4]` in 0..1: the first, small.

    Raises:
        SubjectError: another shape.
    """
    if image.ndim != 4 or 0 in image.shape or image.shape[-1] not in (1, 3, 4):
        raise SubjectError(f"A subject's picture should be an IMAGE, but its shape is {shown(tuple(image.shape))}.")
    first = image[0].float().nan_to_num()
    picture = to_pillow(first.expand(-1, -1, 3) if first.shape[-1] == 1 else first[..., :3])
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return {COVER: json.dumps([base64.b64encode(buffer.getvalue()).decode()])}


def read_cover(metadata: Mapping[str, str]) -> Tensor | None:
    """The picture `[1, H, W, 3]` of a file, at most 256 pixels a side; None where it has none that can be read."""
    text = metadata.get(COVER, "")
    if not text or len(text) > _LONGEST:
        return None
    try:
        data = base64.b64decode(json.loads(text)[0])
        picture = read_picture(io.BytesIO(data), "the picture of the subject")
    except (SubjectError, ValueError, TypeError, LookupError, RecursionError):
        return None
    picture.thumbnail((SIDE, SIDE))
    return as_tensor(picture)[None]
