"""The networks that look at pictures and prompts: DINO ViT-S/16 and CLIP, from local folders, through transformers.

Pictures are prepared as each network was trained: DINO resizes the shorter side to 256 and cuts 224, CLIP resizes to
224 and cuts 224, both bicubic (docs/method.md 10.2). Features have unit length, so that a product is a cosine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import CheckpointError
from ..files import digest_of
from ..prompts.tokenizers import CLIP_END, CLIP_START, clip_ids
from ..weights.transformers_folder import load_network, require_all
from .preprocess import CLIP_MEAN, CLIP_STD

if TYPE_CHECKING:
    from transformers import CLIPModel, ViTModel

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_DINO_RESIZE = 256 / 224
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


class DinoTower:
    """Pictures to the class token of DINO's last layer, after its final norm."""

    def __init__(self, folder: Path, device: str = "cpu"):
        self.fingerprint = _fingerprint(folder, "vit", "DINO ViT-S/16")
        self._model: ViTModel = _load("ViTModel", folder, device, add_pooling_layer=False)
        sizes: Any = self._model.config  # annotated as what it is made from
        self._size: int = sizes.image_size

    @torch.inference_mode()
    def pictures(self, pictures: list[Image.Image]) -> Tensor:
        """`[N, D]` of unit length, float32 on the CPU."""
        pixels = prepare(pictures, round(self._size * _DINO_RESIZE), self._size, IMAGENET_MEAN, IMAGENET_STD)
        hidden = self._model(pixel_values=pixels.to(self._model.device)).last_hidden_state
        return _unit(hidden[:, 0])


class ClipTower:
    """Pictures and texts in CLIP's common space."""

    def __init__(self, folder: Path, device: str = "cpu"):
        self.fingerprint = _fingerprint(folder, "clip", "CLIP")
        self._model: CLIPModel = _load("CLIPModel", folder, device)
        self._sizes: Any = self._model.config  # annotated as what it is made from
        self._size: int = self._sizes.vision_config.image_size
        self._positions: int = self._sizes.text_config.max_position_embeddings

    @property
    def width(self) -> int:
        """Length of a feature (512 for ViT-B/32, 768 for ViT-L/14)."""
        return self._sizes.projection_dim

    @torch.inference_mode()
    def pictures(self, pictures: list[Image.Image]) -> Tensor:
        """`[N, D]` of unit length, float32 on the CPU."""
        pixels = prepare(pictures, self._size, self._size, CLIP_MEAN, CLIP_STD).to(self._model.device)
        pooled = self._model.vision_model(pixel_values=pixels).pooler_output
        return _unit(self._model.visual_projection(pooled))

    def text(self, text: str) -> Tensor:
        """`[D]` of unit length; a text beyond the positions is cut, as OpenAI's tokenizer does when asked to."""
        return self.texts([text])[0]

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Tensor:
        """`[N, D]`, each as `text` makes it. Rows are filled up behind their end, which the words before cannot see."""
        rows = [[CLIP_START, *clip_ids(text)[: self._positions - 2], CLIP_END] for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [CLIP_END] * (longest - len(row)) for row in rows], device=self._model.device)
        pooled = self._model.text_model(input_ids=ids).pooler_output
        return _unit(self._model.text_projection(pooled))


def prepare(
    pictures: list[Image.Image],
    resize: int,
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Tensor:
    """`[N, 3, size, size]`: shorter side to `resize`, middle cut, normalised."""
    squares = np.stack([np.asarray(_middle(picture, resize, size), dtype=np.float32) for picture in pictures])
    pixels = torch.from_numpy(squares) / 255
    return ((pixels - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)


def _middle(picture: Image.Image, resize: int, size: int) -> Image.Image:
    width, height = picture.size
    short = min(width, height)
    picture = picture.resize((resize * width // short, resize * height // short), Image.Resampling.BICUBIC)
    left, top = round((picture.width - size) / 2), round((picture.height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1).cpu()


def _fingerprint(folder: Path, kind: str, name: str) -> str:
    """SHA-256 of the folder's configuration and weights, after a check that they are of the right kind."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is no folder of a {name} model: its config.json cannot be read.") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != kind:
        raise CheckpointError(f"{folder} holds a model of type {found!r}, but {name} is of type {kind!r}.")
    for pattern in _WEIGHTS:
        if weights := sorted(folder.glob(pattern)):
            return digest_of(folder / "config.json", *weights)
    raise CheckpointError(f"{folder} has no weights (model.safetensors). Download the {name} model whole.")


def _load(kind: str, folder: Path, device: str, **options) -> Any:
    """A model of the class `kind` of transformers, float32, without gradients."""
    complaint = (
        f"The model in {folder} cannot be loaded: a file is damaged, missing or of another kind. Download it whole."
    )
    model, report = load_network(folder, kind, complaint, **options)
    require_all(folder, report, but=("position_ids",))
    return model.float().to(device)
