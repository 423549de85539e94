"""Photos to what the image tower sees: checks, neutral background, resize, CLIP normalisation (docs/method.md 2).

Resizing is Pillow's bicubic on 8-bit pixels, as in the released processors, so that the pixels agree exactly.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import overload

import torch
from PIL import Image
from torch import Tensor

from ..errors import SubjectError
from ..files import as_tensor
from ..settings import require_one_of
from .pixels import to_pillow

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

FITS = ("crop", "pad", "squash")
MAX_PHOTOS = 64
MIN_SIDE, MAX_SIDE = 16, 8192

# Several photos of one subject: a batch, or batches of sizes of their own, each `[B, H, W, 1 | 3 | 4]`.
Photos = Tensor | Sequence[Tensor]


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
    if channels == 4:
        for index, photo in enumerate(images):
            if not (photo[..., 3] > 0).any():
                raise SubjectError(f"Photo {index + 1} of {count} is fully transparent: there is nothing to be seen.")


def each_photo(images: Photos) -> list[Tensor]:
    """The photos one by one, each `[1, H, W, 1 | 3 | 4]`, after `check_photos`.

    Raises:
        SubjectError: no photo, or one that cannot be used, with its number in a list.
    """
    if isinstance(images, Tensor):
        check_photos(images)
        return list(images.split(1))
    if not images:
        raise SubjectError("There is no photo in the list (0 photos). Connect one to a few photos of the subject.")
    photos: list[Tensor] = []
    for index, batch in enumerate(images):
        with numbered("Photo", index, len(images)):
            check_photos(batch)
        photos += batch.split(1)
    return photos


def count_photos(images: Photos) -> int:
    """How many `each_photo` gives, without looking at them."""
    return len(images) if isinstance(images, Tensor) else sum(map(len, images))


@contextmanager
def numbered(what: str, index: int, count: int) -> Generator[None]:
    """Complaints of the block begin with the number of the photo (from 0), where there are several."""
    try:
        yield
    except SubjectError as error:
        if count == 1:
            raise
        raise type(error)(f"{what} {index + 1} of {count}: {error}") from error


def as_rgb(images: Tensor, name: str) -> Tensor:
    """Pictures `[B, H, W, 1 | 3 | 4]` as `[B, H, W, 3]`: grey in all three channels, transparency left out.

    Raises:
        SubjectError: another shape; begins with `name`.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise SubjectError(
            f"{name} has the shape {list(images.shape)}. An IMAGE is [pictures, height, width, channels], with 1 "
            "(grey), 3 (RGB) or 4 (RGBA) channels; convert it first."
        )
    return images[..., :3].expand(-1, -1, -1, 3)


def check_masks(masks: Tensor, images: Tensor) -> None:
    """Refuse masks that do not fit the photos: `[B or 1, H, W]`, floats in 0..1, 1 on the subject.

    Raises:
        SubjectError: names both sizes, or says which mask selects nothing.
    """
    pair_masks(masks, list(images.split(1)))


@overload
def pair_masks(masks: Photos, photos: list[Tensor]) -> list[Tensor]: ...
@overload
def pair_masks(masks: None, photos: list[Tensor]) -> list[None]: ...
def pair_masks(masks: Photos | None, photos: list[Tensor]) -> list[Tensor] | list[None]:
    """The mask of each photo, `[1, H, W]`, after `check_masks`.

    Args:
        masks: one for all photos or one for each: a batch `[N, H, W]`, or several batches of sizes of their own; None
            gives None for each.
        photos: as `each_photo` gives them.

    Raises:
        SubjectError: as `check_masks`, with the photo's number where sizes differ.
    """
    if masks is None:
        return [None] * len(photos)
    flat: list[Tensor] = []
    for batch in [masks] if isinstance(masks, Tensor) else masks:
        if not isinstance(batch, Tensor) or batch.ndim != 3 or not batch.dtype.is_floating_point:
            shape = f"{list(batch.shape)} {batch.dtype}" if isinstance(batch, Tensor) else type(batch).__name__
            raise SubjectError(f"The masks should be floats [photos, height, width], but they are {shape}.")
        flat += batch.split(1) if len(batch) else []
    if len(flat) not in (1, len(photos)):
        raise SubjectError(f"There are {len(flat)} masks for {len(photos)} photos. Give one per photo, or one.")
    pairs = [(flat[index % len(flat)], photo) for index, photo in enumerate(photos)]
    of_one_size = len({photo.shape[1:3] for photo in photos}) == 1
    for index, (mask, photo) in enumerate(pairs):
        with numbered("Photo", index, 1 if of_one_size else len(photos)):
            _require_size(mask, photo)
    if not all(torch.isfinite(mask).all() for mask in flat):
        raise SubjectError("The masks hold NaN or infinite values. Check the node that made them.")
    for index, mask in enumerate(flat):
        if mask.max() <= 0:
            raise SubjectError(
                f"Mask {index + 1} of {len(flat)} selects nothing (all zero). White marks the subject; "
                "if yours marks the background, invert it."
            )
    return [mask for mask, _ in pairs]


def _require_size(mask: Tensor, photo: Tensor) -> None:
    if mask.shape[1:] != photo.shape[1:3]:
        (mask_height, mask_width), (height, width) = mask.shape[1:], photo.shape[1:3]
        raise SubjectError(
            f"The mask is {mask_width}x{mask_height} pixels but the photo is {width}x{height}. "
            "Scale the mask to the photo. (Load Image gives an empty 64x64 mask for a picture without transparency: "
            "leave masks unconnected then.)"
        )


def check_regions(mask: Tensor, name: str, consequence: str) -> Tensor:
    """A MASK of any size that says where something happens in pictures, as float32 `[N, H, W]` in 0..1 on the CPU.

    Args:
        name: of the input, as messages call it.
        consequence: what follows where nothing is selected, and what to do: "so nothing could change. Paint it white."

    Raises:
        SubjectError: another shape, not finite, or nothing selected (in one of several).
    """
    mask = mask.detach().to("cpu", torch.float32)
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or 0 in mask.shape:
        raise SubjectError(f"{name} has the shape {list(mask.shape)}; a MASK is [pictures, height, width].")
    if not torch.isfinite(mask).all():
        raise SubjectError(f"{name} holds NaN or infinite values; the node that made it is broken.")
    mask = mask.clamp(0, 1)
    for index, one in enumerate(mask):
        if not one.any():
            which = f" in picture {index + 1} of {len(mask)}" if len(mask) > 1 else ""
            raise SubjectError(f"{name} is empty{which}: nothing in it is white, {consequence}")
    return mask


def compose(images: Tensor, masks: Tensor | None) -> Tensor:
    """RGB photos `[B, H, W, 3]`, 0..1, with everything outside mask and alpha replaced by the neutral background.

    The neutral background is the mean colour of CLIP's training pictures: it is zero to the image tower.
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
            side and fills up with the neutral background, "squash" ignores the aspect ratio (as the diffusers port).

    Raises:
        SubjectError: another word for `fit`.
    """
    require_one_of("fit", fit, FITS)
    squares = [_fit_one(to_pillow(image), size, fit) for image in images]
    return torch.stack([as_tensor(square) for square in squares])


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
