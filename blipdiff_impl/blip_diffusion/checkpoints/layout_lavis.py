"""The LAVIS folder: `blip_model/`, `proj_layer/`, `unet/`, `vae/`, `text_encoder/`, optional cached vectors.

See docs/method.md 8.1. The BLIP file comes with or without the image tower; without it the tower is taken
from a CLIP ViT-L/14 file beside it.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import CheckpointError, first_few
from ...weights.folders import first_existing, own_vocabulary, what_was_found
from ...weights.opening import open_tensor_file
from ...weights.torch_file import BARE_TENSOR
from ..config import ModelConfig
from .checkpoint import Checkpoint, PartTensors, StoredTensor
from .clip_tower import TOWER_FILES, add_tower_file
from .layout_diffusers import component_part, folders_left_aside
from .model_sizes import sizes_from_folder
from .renames import DIFFUSERS, LAVIS_BLIP, LAVIS_PROJECTION, LAVIS_UNUSED

BLIP_FILES = ("blip_weight.safetensors", "blip_weight.pt")
PROJECTION_FILES = ("proj_weight.safetensors", "proj_weight.pt")
CACHE_FILES = ("ctx_embeddings_cache.pt",)


def open_lavis_folder(folder: Path, config: ModelConfig) -> Checkpoint:
    """Open the folder; parts that it lacks are reported when they are asked for."""
    parts = {name: component_part(folder / name, DIFFUSERS[name]) for name in ("text_encoder", "unet", "vae")}
    sizes = sizes_from_folder(folder, config)
    return Checkpoint(
        layout="LAVIS folder",
        path=folder,
        config=sizes,
        parts={"subject_encoder": _subject_encoder(folder, sizes.image_tower.num_hidden_layers), **parts},
        word_pieces=own_vocabulary(folder / "blip_model"),
        vectors=_cached_vectors(folder / "ctx_embeddings_cache"),
        notes=folders_left_aside(folder),
    )


def _subject_encoder(folder: Path, tower_blocks: int) -> PartTensors:
    blip, projection = folder / "blip_model", folder / "proj_layer"
    part = PartTensors(missing=what_was_found(blip, BLIP_FILES))
    path = first_existing(blip, BLIP_FILES)
    if path is None:
        return part
    part.add(open_tensor_file(path), LAVIS_BLIP, LAVIS_UNUSED)
    projection_path = first_existing(projection, PROJECTION_FILES)
    if projection_path is None:
        raise CheckpointError(f"The projection is missing. {what_was_found(projection, PROJECTION_FILES)}")
    part.add(open_tensor_file(projection_path), LAVIS_PROJECTION)
    if not any(name.startswith("visual_encoder.encoder.") for name in part.tensors):
        _add_tower(part, path, (blip, folder), tower_blocks)
    return part


def _add_tower(part: PartTensors, blip_path: Path, folders: tuple[Path, ...], blocks: int) -> None:
    for folder in folders:
        if path := first_existing(folder, TOWER_FILES):
            return add_tower_file(part, path, blocks)
    searched = " ".join(what_was_found(folder, TOWER_FILES) for folder in folders)
    raise CheckpointError(
        f"{blip_path} holds no image tower, so a CLIP ViT-L/14 file is needed beside it. {searched} "
        "Put one of these files there."
    )


def _cached_vectors(folder: Path) -> StoredTensor | None:
    path = first_existing(folder, CACHE_FILES)
    if path is None:
        return None
    file = open_tensor_file(path)
    if BARE_TENSOR not in file.infos:
        raise CheckpointError(f"{path} should hold one tensor, but it holds {first_few(list(file.infos))}.")
    return StoredTensor(file, BARE_TENSOR)
