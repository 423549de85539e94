"""The aesthetic score: a linear head on CLIP's picture features of unit length (LAION's predictor, ViT-L/14, 0 to 10).

LAION's second predictor is a stack of linear layers with nothing between them but dropout, so it is read as one too.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import digest_of
from ..pictures.towers import ClipTower
from ..weights.safetensors_file import SafetensorsFile


class AestheticScorer:
    """Pictures to scores.

    Raises:
        CheckpointError: the head is no stack of linear layers from the tower's features to one number.
    """

    def __init__(self, tower: ClipTower, head: Path):
        self._tower = tower
        self._layers = _read_layers(head)
        widths = [tower.width, *(len(weight) for weight, _ in self._layers)]
        inputs = [weight.shape[1] for weight, _ in self._layers]
        if widths[:-1] != inputs or widths[-1] != 1:
            raise CheckpointError(
                f"The aesthetic head {head} takes {inputs} numbers and gives {widths[1:]}, but CLIP gives "
                f"{tower.width} and one score is wanted. Use the head made for this CLIP model."
            )
        self.fingerprint = tower.fingerprint + digest_of(head)

    def pictures(self, pictures: list) -> Tensor:
        """Scores `[N]`, float32 on the CPU."""
        values = self._tower.pictures(pictures)
        for weight, bias in self._layers:
            values = values @ weight.T + bias
        return values[:, 0]


def _read_layers(head: Path) -> list[tuple[Tensor, Tensor]]:
    """(weight `[out, in]`, bias `[out]`) of each layer, in the order of the numbers in their names."""
    if not head.is_file():
        raise CheckpointError(f"There is no aesthetic head {head}.")
    file = SafetensorsFile(head)
    tensors = {name: tensor.float() for name, tensor in file.load(list(file.infos)).items()}
    names = sorted((name for name in tensors if name.endswith("weight")), key=_numbers)
    layers = [(tensors[name], tensors.get(f"{name.removesuffix('weight')}bias")) for name in names]
    whole = len(tensors) == 2 * len(layers) and all(
        bias is not None and weight.ndim == 2 and bias.shape == weight.shape[:1] for weight, bias in layers
    )
    if not layers or not whole or not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise CheckpointError(f"The aesthetic head {head} should hold weight and bias of linear layers, all finite.")
    return [(weight, bias) for weight, bias in layers if bias is not None]


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
