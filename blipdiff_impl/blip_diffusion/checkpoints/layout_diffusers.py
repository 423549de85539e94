"""The diffusers folder, with ControlNet or not: `qformer/`, `text_encoder/`, `unet/`, `vae/` (docs/method.md 8.2)."""

from __future__ import annotations

from pathlib import Path

from ...weights.folders import entries, first_existing, own_vocabulary, what_was_found
from ...weights.opening import open_tensor_file
from ...weights.renames import Rules
from ..config import ModelConfig
from .checkpoint import Checkpoint, PartTensors
from .model_sizes import sizes_from_folder
from .renames import DIFFUSERS

FOLDERS = {"subject_encoder": "qformer", "text_encoder": "text_encoder", "unet": "unet", "vae": "vae"}

# transformers and diffusers each have their file names; safetensors first, full precision first.
_STEMS = {"qformer": ("model", "pytorch_model"), "text_encoder": ("model", "pytorch_model")}
_DIFFUSERS_STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model")
# Folders of a published repository that no part of this method reads.
_LEFT_ASIDE = ("controlnet", "vision_encoder", "safety_checker")


def weight_names(folder: str) -> tuple[str, ...]:
    """File names that a component's folder may hold its weights under, best first."""
    safe, pickled = _STEMS.get(folder, _DIFFUSERS_STEMS)
    return (
        f"{safe}.safetensors",
        f"{pickled}.bin",
        f"{safe}.fp16.safetensors",
        f"{pickled}.fp16.bin",
    )


def open_diffusers_folder(folder: Path, config: ModelConfig) -> Checkpoint:
    """Open the folder; parts that it lacks are reported when they are asked for."""
    return Checkpoint(
        layout="diffusers folder",
        path=folder,
        config=sizes_from_folder(folder, config),
        parts={part: component_part(folder / name, DIFFUSERS[part]) for part, name in FOLDERS.items()},
        word_pieces=own_vocabulary(folder / "qformer"),
        notes=folders_left_aside(folder),
    )


def component_part(folder: Path, rules: Rules) -> PartTensors:
    """The tensors of the one weights file in a component's folder."""
    names = weight_names(folder.name)
    part = PartTensors(missing=what_was_found(folder, names))
    if path := first_existing(folder, names):
        part.add(open_tensor_file(path), rules)
    return part


def folders_left_aside(folder: Path) -> list[str]:
    """A note for each folder that is there but not used."""
    there = entries(folder)
    return [f"{name}/ is not part of this method and was left aside." for name in _LEFT_ASIDE if f"{name}/" in there]
