"""Trained weights, by the names of the training modules, as the parts of a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor

from ..subject_module import SubjectEncoderModule
from .frozen import FrozenParts
from .initial import Initial

_NORM = "image_norm."
_TEXT = "text_encoder.clip."


def subject_encoder_part(initial: Initial, frozen: FrozenParts, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tower, trained norm, Q-Former and projection under canonical names."""
    own = {f"visual_encoder.{name}": tensor for name, tensor in frozen.tower.state_dict().items()}
    own |= {f"proj_layer.{name}": tensor for name, tensor in initial.encoder.proj_layer.state_dict().items()}
    own |= {name: tensor for name, tensor in state.items() if name.startswith(("qformer.", "proj_layer."))}
    for name, tensor in state.items():
        if name.startswith(_NORM):
            own[f"visual_encoder.post_layernorm.{name.removeprefix(_NORM)}"] = tensor
    with torch.device("meta"):
        module = SubjectEncoderModule(initial.config)
    module.load_state_dict({name: tensor.cpu() for name, tensor in own.items()}, strict=True, assign=True)
    return module.canonical_state_dict()


def text_encoder_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder under canonical names."""
    own = {name.removeprefix(_TEXT): tensor.cpu() for name, tensor in state.items() if name.startswith(_TEXT)}
    return {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in own.items()}


def unet_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The UNet under canonical names."""
    return {name.removeprefix("unet."): tensor.cpu() for name, tensor in state.items() if name.startswith("unet.")}
