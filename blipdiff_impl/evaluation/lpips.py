"""LPIPS (Zhang et al. 2018, version 0.1) on AlexNet: how unlike two pictures are to a network that knows objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import CheckpointError
from ..weights.fingerprint import fingerprint_of
from ..weights.opening import open_tensor_file

SIDE = 256
# Kernel, stride, padding and channels of AlexNet's convolutions, by their number in torchvision's file.
_LAYERS = {0: (11, 4, 2, 64), 3: (5, 1, 2, 192), 6: (3, 1, 1, 384), 8: (3, 1, 1, 256), 10: (3, 1, 1, 256)}
_POOLED = (3, 6)  # before these the picture is halved
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Lpips:
    """Distances of pictures.

    Args:
        alexnet: torchvision's AlexNet, `features.0.weight` and so on; `.safetensors` or a file of tensors.
        linear: the layers that weigh its channels, `lin0.model.1.weight` and so on, likewise.

    Attributes:
        fingerprint: of the weights of both files.

    Raises:
        CheckpointError: a file cannot be read, or a tensor is missing or of another shape.
    """

    def __init__(self, alexnet: Path, linear: Path, device: str = "cpu"):
        self._device, before = torch.device(device), 3
        self._weights: list[tuple[int, Tensor, Tensor]] = []
        self._shares: list[Tensor] = []
        first, second = open_tensor_file(alexnet), open_tensor_file(linear)
        for place, (number, (kernel, _, _, channels)) in enumerate(_LAYERS.items()):
            name = f"features.{number}"
            weight = _take(first, f"{name}.weight", (channels, before, kernel, kernel))
            self._weights.append((number, weight.to(device), _take(first, f"{name}.bias", (channels,)).to(device)))
            share = _take(second, f"lin{place}.model.1.weight", (1, channels, 1, 1))
            self._shares.append(share.to(device))
            before = channels
        flat = [*(each for _, *pair in self._weights for each in pair), *self._shares]
        self.fingerprint = fingerprint_of({str(number): each.cpu() for number, each in enumerate(flat)})

    @torch.inference_mode()
    def distance(self, one: Image.Image, other: Image.Image) -> float:
        """0 for the same picture; both are squeezed to 256 x 256 first."""
        total = torch.zeros(())
        for a, b, share in zip(self._features(one), self._features(other), self._shares, strict=True):
            total = total + ((_unit(a) - _unit(b)).square() * share).sum(1).mean().cpu()
        return float(total)

    def _features(self, picture: Image.Image) -> list[Tensor]:
        small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        x = torch.from_numpy(np.array(small)).float().permute(2, 0, 1)[None] / 127.5 - 1
        shift, scale = (torch.tensor(each).view(1, 3, 1, 1) for each in (_SHIFT, _SCALE))
        x = ((x - shift) / scale).to(self._device)
        found = []
        for number, weight, bias in self._weights:
            _, stride, padding, _ = _LAYERS[number]
            if number in _POOLED:
                x = F.max_pool2d(x, 3, 2)
            x = F.conv2d(x, weight, bias, stride, padding).relu()
            found.append(x)
        return found


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def _take(file, name: str, shape: tuple[int, ...]) -> Tensor:
    if name not in file.infos or file.infos[name].shape != shape:
        raise CheckpointError(
            f"{file.path} has no tensor {name} of the shape {list(shape)}. LPIPS needs torchvision's AlexNet, and the "
            "linear layers of its version 0.1 for it."
        )
    return file.load([name])[name].float()
