"""Photos to what the image tower sees: checks, neutral ground, resize, CLIP normalisation (fact sheet 2).

Resizing is Pillow's bicubic on 8-bit pixels, as in the released processors, so that the pixels agree exactly.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import SubjectError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

FITS = ("crop", "pad", "squash")
MAX_PHOTOS = 64
MIN_SIDE, MAX_SIDE = 16, 8192


def check_photos(images: Tensor) -> None:
    """Refuse anything that is not a batch of photos `[B, H, W, 1 | 3 | 4]` with float values in 0..1.

    Raises:
        SubjectError: names the value and what to do about it.
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise SubjectError(f"The photos should be a batch [photos, height, width, channels], but they are {shape}.")
    count, height, width, channels = images.shape
    if count == 0:
        raise SubjectError("There is no photo in the batch (0 photos). Connect one to a few photos of the subject.")
    if count > MAX_PHOTOS:
        raise SubjectError(f"{count} photos are more than the {MAX_PHOTOS} that are allowed at once. Choose the best.")
    if channels not in (1, 3, 4):
        raise SubjectError(f"The photos have {channels} channels; grey (1), RGB (3) and RGBA (4) pictures can be used.")
    if min(height, width) < MIN_SIDE:
        raise SubjectError(
            f"The photos are {width}x{height} pixels, too small for a subject. Use at least {MIN_SIDE} a side."
        )
    if max(height, width) > MAX_SIDE:
        raise SubjectError(
            f"The photos are {width}x{height} pixels, more than {MAX_SIDE} a side. Scale them down first "
            "(the encoder looks at a few hundred pixels only)."
        )
    if not images.dtype.is_floating_point:
        raise SubjectError(f"The photos hold {images.dtype} values; expected floats in 0..1. Divide bytes by 255.")
    if not torch.isfinite(images).all():
        raise SubjectError("The photos hold NaN or infinite pixels. Check the node that made them.")
    low, high = images.aminmax()
    if low < -0.1 or high > 1.1:
        raise SubjectError(
            f"The photos' pixels lie between {float(low):.3g} and {float(high):.3g}; expected 0..1. "
            "Divide 8-bit pixels by 255."
        )


def check_masks(masks: Tensor, images: Tensor) -> None:
    """Refuse masks that do not fit the photos: `[B or 1, H, W]`, floats in 0..1, 1 on the subject.

    Raises:
        SubjectError: names both sizes, or says which mask selects nothing.
    """
    if not isinstance(masks, Tensor) or masks.ndim != 3 or not masks.dtype.is_floating_point:
        shape = f"{list(masks.shape)} {masks.dtype}" if isinstance(masks, Tensor) else type(masks).__name__
        raise SubjectError(f"The masks should be floats [photos, height, width], but they are {shape}.")
    if len(masks) not in (1, len(images)):
        raise SubjectError(f"There are {len(masks)} masks for {len(images)} photos. Give one per photo, or one.")
    if masks.shape[1:] != images.shape[1:3]:
        (mask_height, mask_width), (height, width) = masks.shape[1:], images.shape[1:3]
        raise SubjectError(
            f"The mask is {mask_width}x{mask_height} pixels but the photo is {width}x{height}. "
            "Scale the mask to the photo. (Load Image gives an empty 64x64 mask for a picture without transparency: "
            "leave masks unconnected then.)"
        )
    if not torch.isfinite(masks).all():
        raise SubjectError("The masks hold NaN or infinite values. Check the node that made them.")
    for index, mask in enumerate(masks):
        if mask.max() <= 0:
            raise SubjectError(
                f"Mask {index + 1} of {len(masks)} selects nothing (all zero). White marks the subject; "
                "if yours marks the background, invert it."
            )


def compose(images: Tensor, masks: Tensor | None) -> Tensor:
    """RGB photos `[B, H, W, 3]`, 0..1, with everything outside mask and alpha replaced by the neutral ground.

    The neutral ground is the mean colour of CLIP's training pictures: it is zero to the image tower.
    """
    images = images.detach().to("cpu", torch.float32).clamp(0, 1)
    coverage = torch.ones(images.shape[:3]) if masks is None else masks.detach().to("cpu", torch.float32).clamp(0, 1)
    if images.shape[-1] == 4:
        coverage = coverage * images[..., 3]
    rgb = images[..., :3].expand(-1, -1, -1, 3)
    if masks is None and images.shape[-1] != 4:
        return rgb
    coverage = coverage[..., None]
    return rgb * coverage + torch.tensor(CLIP_MEAN) * (1 - coverage)


def fit_square(images: Tensor, size: int, fit: str = "crop") -> Tensor:
    """Photos `[B, H, W, 3]`, 0..1, brought to `[B, size, size, 3]`.

    Args:
        fit: "crop" scales the shorter side and cuts the middle (as the official release), "pad" scales the longer
            side and fills up with the neutral ground, "squash" ignores the aspect ratio (as the diffusers port).

    Raises:
        SubjectError: another word for `fit`.
    """
    if fit not in FITS:
        raise SubjectError(f"fit = {fit!r} is unknown; choose one of {', '.join(FITS)}.")
    squares = [_fit_one(_to_pillow(image), size, fit) for image in images]
    return torch.stack([torch.from_numpy(np.asarray(square, dtype=np.float32) / 255) for square in squares])


def _to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().to(torch.uint8).numpy())


def _fit_one(photo: Image.Image, size: int, fit: str) -> Image.Image:
    width, height = photo.size
    if fit == "squash":
        return photo.resize((size, size), Image.Resampling.BICUBIC)
    reference = min(width, height) if fit == "crop" else max(width, height)
    # Truncated like the released resize; a very long picture keeps at least one pixel.
    width, height = max(1, int(size * width / reference)), max(1, int(size * height / reference))
    photo = photo.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if fit == "crop":
        return photo.crop((left, top, left + size, top + size))
    ground = Image.new("RGB", (size, size), tuple(round(255 * value) for value in CLIP_MEAN))
    ground.paste(photo, (-left, -top))
    return ground


def normalise(squares: Tensor) -> Tensor:
    """`[B, S, S, 3]` in 0..1 to the tower's `[B, 3, S, S]` with CLIP's mean and standard deviation."""
    return ((squares - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(0, 3, 1, 2).contiguous()
