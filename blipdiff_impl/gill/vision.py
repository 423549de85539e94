"""The frozen picture encoder: CLIP's class token behind its last norm (docs/method.md 14.2)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckpointError, SubjectError
from ..pictures.preprocess import as_rgb, compose, fit_square, normalise
from ..weights.fingerprint import fingerprint_of
from ..weights.transformers_folder import load_network, require_all

if TYPE_CHECKING:
    from transformers import CLIPVisionModel


class Tower(Protocol):
    """What sees pictures, here or in the host.

    Attributes:
        width: of what it says of a picture.
        fingerprint: of its weights.
    """

    width: int
    fingerprint: str

    def pooled(self, pictures: Tensor, squash: bool = False) -> Tensor:
        """Pictures `[B, H, W, 1 | 3 | 4]` in 0..1 to pooled outputs `[B, width]`, of any type and device.

        Args:
            squash: to a square without cutting; else the middle is taken.
        """
        ...


class ClipVision:
    """The vision model of a folder of transformers, which may also hold CLIP's text encoder.

    Args:
        network: transformers' class.
        cells: 0 for the class token alone, as published; else the means of its patches in so many cells a side stand
            behind it, which a small model needs.

    Attributes:
        side: of the square that it looks at, in pixels.
    """

    def __init__(self, network: CLIPVisionModel, cells: int = 0):
        sizes: Any = network.config
        self.network, self._cells = network, cells
        self.side: int = sizes.image_size
        self.width: int = sizes.hidden_size * (1 + cells**2)
        self.fingerprint = fingerprint_of({name: value.float() for name, value in network.state_dict().items()})

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu", cells: int = 0) -> ClipVision:
        """Nothing is downloaded, and no code of the folder is run.

        Raises:
            CheckpointError: files are missing or damaged, or of another kind of model.
        """
        complaint = (
            f"The CLIP vision model in {folder} cannot be read: a file is missing or damaged, or of another kind. "
            "Download the folder whole."
        )
        network, report = load_network(folder, "CLIPVisionModel", complaint)
        require_all(folder, report, but=("position_ids",))
        return cls(network.float().to(device), cells)

    @torch.no_grad()
    def pooled(self, pictures: Tensor, squash: bool = False) -> Tensor:
        """See `Tower`."""
        squares = fit_square(flattened(pictures), self.side, "squash" if squash else "crop")
        return self.seen(normalise(squares))

    @torch.no_grad()
    def seen(self, pixels: Tensor) -> Tensor:
        """Pooled outputs `[B, width]` of normalised pixels `[B, 3, side, side]`."""
        found = self.network(pixel_values=pixels.to(self.network.device))
        if not self._cells:
            return found.pooler_output
        inner: Any = getattr(self.network, "vision_model", self.network)  # transformers 5 has dropped a level
        patches = inner.post_layernorm(found.last_hidden_state[:, 1:])
        count = math.isqrt(patches.shape[1])
        grid = patches.unflatten(1, (count, count)).permute(0, 3, 1, 2)
        means = F.adaptive_avg_pool2d(grid, self._cells).flatten(2).transpose(1, 2)
        return torch.cat([found.pooler_output, means.flatten(1)], 1)

    def to(self, device: torch.device) -> ClipVision:
        """The network on another device."""
        self.network.to(device)
        return self


def flattened(pictures: Tensor) -> Tensor:
    """Pictures as `[B, H, W, 3]`, float32 on the CPU; what is transparent becomes the neutral background."""
    return compose(pictures, None) if pictures.shape[-1] == 4 else as_rgb(pictures, "The picture").float().cpu()


def require_tower(tower: Tower | None, width: int) -> Tower:
    """The tower, if it fits.

    Raises:
        SubjectError: there is none, or it is of another width.
    """
    if tower is None:
        raise SubjectError(
            "There are pictures, but this GILL model has no CLIP vision model to see them with. Load CLIP ViT-L/14 "
            "(Load CLIP Vision) and connect it to clip_vision of Load GILL Model."
        )
    if tower.width != width:
        name = "CLIP ViT-L/14 (openai/clip-vit-large-patch14)" if width == 1024 else "the one it was trained with"
        raise CheckpointError(
            f"The CLIP vision model gives vectors that are {tower.width} wide, this GILL model takes {width}. Load "
            f"{name}."
        )
    return tower
