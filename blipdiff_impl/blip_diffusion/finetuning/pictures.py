"""Photos to what the training loop draws from: latents, computed once, and what each part of them counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SubjectError
from ..preprocess import MAX_SIDE, check_masks, check_photos, compose, fit_square

MIN_RESOLUTION = 64
VAE_FACTOR = 8

Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class TrainingPictures:
    """Latents of the training pictures.

    Attributes:
        latents: `[N, 4, h, w]` float32, in the scale that the UNet takes.
        mirrored: the same of the mirrored pictures; None where none are shown.
        weights: `[N, 1, h, w]`, what each place counts in the loss; None counts all alike.
    """

    latents: Tensor
    mirrored: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def take(self, rows: Tensor, flipped: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latents `[B, 4, h, w]` and weights of the pictures with these numbers, mirrored where `flipped` `[B]`."""
        latents, weights = self.latents[rows], None if self.weights is None else self.weights[rows]
        if self.mirrored is not None:
            turned = flipped[:, None, None, None]
            latents = torch.where(turned, self.mirrored[rows], latents)
            weights = None if weights is None else torch.where(turned, weights.flip(-1), weights)
        return latents, weights

    def to(self, device: torch.device | str) -> TrainingPictures:
        """The same on another device."""
        parts = (self.latents, self.mirrored, self.weights)
        return TrainingPictures(*(None if part is None else part.to(device) for part in parts))


def check_resolution(resolution: int) -> None:
    """Refuse a side of the training pictures that the VAE cannot take.

    Raises:
        SubjectError: too small, too large, or no multiple of 8.
    """
    if not MIN_RESOLUTION <= resolution <= MAX_SIDE or resolution % VAE_FACTOR:
        raise SubjectError(
            f"resolution = {resolution} is not possible; choose a multiple of {VAE_FACTOR} from {MIN_RESOLUTION} to "
            f"{MAX_SIDE} (512 for Stable Diffusion 1.5)."
        )


def squares(images: Tensor, resolution: int) -> Tensor:
    """Photos `[N, H, W, 1 | 3 | 4]` as targets `[N, S, S, 3]` in 0..1: shorter side scaled, middle cut (fact sheet 2).

    Raises:
        SubjectError: photos that cannot be used.
    """
    check_photos(images)
    return fit_square(compose(images, None), resolution)


def prepare(
    targets: Tensor, encode: Encode, masks: Tensor | None = None, background_weight: float = 1.0, flip: bool = False
) -> TrainingPictures:
    """Encode targets `[N, S, S, 3]`.

    Args:
        encode: pictures `[N, S, S, 3]` in 0..1 to latents `[N, 4, S/8, S/8]` in the UNet's scale.
        masks: `[N, S, S]`, 1 on the subject.
    """
    latents = encode(targets).float().clone()
    mirrored = encode(targets.flip(2)).float().clone() if flip else None
    if masks is None or background_weight == 1:
        return TrainingPictures(latents, mirrored)
    coverage = F.adaptive_avg_pool2d(masks[:, None].float(), latents.shape[-2:]).to(latents.device)
    return TrainingPictures(latents, mirrored, background_weight + (1 - background_weight) * coverage)


def square_masks(masks: Tensor, images: Tensor, resolution: int) -> Tensor:
    """Masks `[N or 1, H, W]` cut like the photos: `[N, S, S]`, 1 on the subject.

    Raises:
        SubjectError: masks that do not fit the photos, or with nothing of the subject inside the square.
    """
    check_masks(masks, images)
    pictures = masks.detach().to("cpu", torch.float32).clamp(0, 1)[..., None].expand(-1, -1, -1, 3)
    cut = fit_square(pictures, resolution)[..., 0]
    for index, mask in enumerate(cut):
        if mask.max() <= 0:
            raise SubjectError(
                f"Mask {index + 1} of {len(cut)} lies outside the middle square of its photo, which is all that is "
                "trained on. Crop the photo to the subject."
            )
    return cut.expand(len(images), -1, -1)
