"""The image tower from a CLIP ViT-L/14 file: CLIP's own names, LAVIS's (the same without prefix) or transformers'.

The tower is CLIP's without its last block, without the norm after it and without the projection (docs/method.md 1.2).
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ...errors import CheckpointError, first_few
from ...weights.opening import open_tensor_file
from ...weights.renames import Rules, rename
from ...weights.tensor_file import TensorFile, TensorInfo
from .checkpoint import PartTensors
from .renames import CLIP_TOWER, TRANSFORMERS_TOWER

TOWER_FILES = (
    "clip_vit_L.safetensors",
    "clip_vit_L.pth",
    "ViT-L-14.safetensors",
    "ViT-L-14.pt",
    "clip-vit-large-patch14.safetensors",
    "clip-vit-large-patch14.bin",
)

_UNUSED = re.compile(r"^visual_encoder\.(ln_post\.|proj$|post_layernorm\.|embeddings\.position_ids$)")


def add_tower_file(part: PartTensors, path: Path, blocks: int) -> None:
    """Add the tower of a CLIP file to a part that has the norm after the tower already.

    Args:
        blocks: how many the method uses; CLIP's own tower has one more, which is left out.

    Raises:
        CheckpointError: the file is unreadable or holds no CLIP image tower.
    """
    file = open_tensor_file(path)
    if any(name.startswith("vision_model.") for name in file.infos):
        file = FusedAttentionFile(file)
        names = _renamed(file, "vision_model.", TRANSFORMERS_TOWER)
    elif any(name.startswith("visual.") for name in file.infos):
        names = _renamed(file, "visual.", ((r"^visual\.", "visual_encoder."), *CLIP_TOWER))
    elif "conv1.weight" in file.infos:
        names = _renamed(file, "", ((r"^", "visual_encoder."), *CLIP_TOWER))
    else:
        raise CheckpointError(
            f"{path} holds no CLIP image tower: its first tensors are {first_few(list(file.infos)[:3])}. "
            "A CLIP ViT-L/14 file is needed."
        )
    last = f"visual_encoder.encoder.layers.{blocks}."
    part.add_named(file, {name: new for name, new in names.items() if not new.startswith(last)})


def _renamed(file: TensorFile, prefix: str, rules: Rules) -> dict[str, str]:
    names = {name: rename(name, rules) for name in file.infos if name.startswith(prefix)}
    return {name: canonical for name, canonical in names.items() if not _UNUSED.match(canonical)}


class FusedAttentionFile:
    """A transformers CLIP file seen with the fused query-key-value layers that the tower has."""

    def __init__(self, file: TensorFile):
        self.path = file.path
        self._file = file
        self.infos = {}
        for name, info in file.infos.items():
            fused = re.sub(r"\.self_attn\.q_proj\.", ".self_attn.qkv.", name)
            if fused != name and info.shape:
                info = TensorInfo((3 * info.shape[0], *info.shape[1:]), info.dtype)
            if not re.search(r"\.self_attn\.[kv]_proj\.", name):
                self.infos[fused] = info

    def load(self, names: list[str]) -> dict[str, torch.Tensor]:
        """The named tensors; fused ones are joined from the query, key and value of the file, in this order."""
        stored = {name: [name.replace(".qkv.", f".{letter}_proj.") for letter in "qkv"] for name in names}
        stored = {name: list(dict.fromkeys(three)) for name, three in stored.items()}
        tensors = self._file.load([one for three in stored.values() for one in three])
        return {
            name: torch.cat([tensors[one] for one in three]) if len(three) > 1 else tensors[name]
            for name, three in stored.items()
        }
