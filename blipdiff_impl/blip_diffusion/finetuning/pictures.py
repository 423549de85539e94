"""Photos to what the training loop draws from: latents, computed once, and what each part of them counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import SubjectError
from ...pictures.preprocess import MAX_SIDE, Photos, compose, each_photo, fit_square, pair_masks
from ...stable_diffusion.config import VAE_FACTOR

MIN_RESOLUTION = 64

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
        mirrored, weights = (None if part is None else part.to(device) for part in (self.mirrored, self.weights))
        return TrainingPictures(self.latents.to(device), mirrored, weights)


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


def squares(images: Photos, resolution: int) -> Tensor:
    """Photos `[N, H, W, 1 | 3 | 4]` as targets `[N, S, S, 3]` in 0..1: shorter side scaled, centre cut
    (docs/method.md 2).

    Raises:
        SubjectError: photos that cannot be used.
    """
    return torch.cat([fit_square(compose(photo, None), resolution) for photo in each_photo(images)])


def prepare(
    targets: Tensor,
    encode: Encode,
    masks: Tensor | None = None,
    background_weight: float = 1.0,
    flip: bool = False,
    opaque: Tensor | None = None,
) -> TrainingPictures:
    """Encode targets `[N, S, S, 3]`.

    Args:
        encode: pictures `[N, S, S, 3]` in 0..1 to latents `[N, 4, S/8, S/8]` in the UNet's scale.
        masks: `[N, S, S]`, 1 on the subject.
        opaque: `[N, S, S]`, 0 where a photo shows nothing: there nothing is learned, whatever the ground counts.
    """
    latents = encode(targets).float().clone()
    mirrored = encode(targets.flip(2)).float().clone() if flip else None
    weights = None
    if masks is not None and background_weight != 1:
        weights = background_weight + (1 - background_weight) * _shares(masks, latents)
    if opaque is not None:
        weights = _shares(opaque, latents) * (1 if weights is None else weights)
    return TrainingPictures(latents, mirrored, weights)


def square_masks(masks: Photos, images: Photos, resolution: int) -> Tensor:
    """Masks `[N or 1, H, W]` cut like the photos: `[N, S, S]`, 1 on the subject.

    Raises:
        SubjectError: masks that do not fit the photos, or with nothing of the subject inside the square.
    """
    paired = pair_masks(masks, each_photo(images))
    return _cut(paired, resolution, "Mask {} lies")


def square_opacity(images: Photos, resolution: int) -> Tensor | None:
    """What the photos show, cut like them: `[N, S, S]`, their alpha where they have one, 1 elsewhere.

    None where nothing is transparent.

    Raises:
        SubjectError: a photo of which the square shows nothing.
    """
    alphas = [
        photo[..., 3] if photo.shape[-1] == 4 else photo.new_ones(photo.shape[:3]) for photo in each_photo(images)
    ]
    if all(bool((alpha >= 1).all()) for alpha in alphas):
        return None
    return _cut(alphas, resolution, "What is opaque in photo {} lies")


def _cut(masks: list[Tensor], resolution: int, complaint: str) -> Tensor:
    """Masks `[1, H, W]` each, cut like photos: `[N, S, S]`."""
    squares = []
    for index, mask in enumerate(masks):
        picture = mask.detach().to("cpu", torch.float32).clamp(0, 1)[..., None].expand(-1, -1, -1, 3)
        squares.append(fit_square(picture, resolution)[..., 0])
        if squares[-1].max() <= 0:
            which = complaint.format(f"{index + 1} of {len(masks)}")
            raise SubjectError(
                f"{which} outside the middle square of its photo, which is all that is trained on. Crop the photo to "
                "the subject."
            )
    return torch.cat(squares)


def _shares(masks: Tensor, latents: Tensor) -> Tensor:
    """How much of each latent cell is in the mask, `[N, 1, h, w]`."""
    height, width = latents.shape[-2:]
    return F.adaptive_avg_pool2d(masks[:, None].float(), (height, width)).to(latents.device)
