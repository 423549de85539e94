"""Stable Diffusion 1.5 as the one file that artists have, in the names of the original code (LDM)."""

from __future__ import annotations

import re

from ...errors import CheckpointError
from ...stable_diffusion.ldm_names import canonical_unet_names
from ...weights.renames import rename
from ...weights.tensor_file import TensorFile
from ..config import ModelConfig
from .checkpoint import Checkpoint, PartTensors
from .expected_shapes import PARTS
from .renames import DIFFUSERS

_UNET, _TEXT_ENCODER = "model.diffusion_model.", "cond_stage_model.transformer."

# Models whose files have the same prefixes, by names that Stable Diffusion 1.5 does not have.
_OTHERS = (
    ("Stable Diffusion 2", r"cond_stage_model\.model\."),
    ("Stable Diffusion XL", r"conditioner\.|model\.diffusion_model\.label_emb\."),
    ("Stable Diffusion 3 or Flux", r"model\.diffusion_model\.(?:joint|double)_blocks\."),
)


def is_ldm_file(file: TensorFile) -> bool:
    """Whether the file holds a UNet as the original code saves it."""
    return any(name.startswith(_UNET) for name in file.infos)


def open_ldm_file(file: TensorFile, config: ModelConfig) -> Checkpoint:
    """The UNet and the text encoder of the file; the VAE, an EMA copy (`model_ema.`) and buffers are left aside.

    Args:
        config: the sizes, which such a file does not state.

    Raises:
        CheckpointError: the file is of another Stable Diffusion.
    """
    for kind, pattern in _OTHERS:
        if any(re.match(pattern, name) for name in file.infos):
            raise CheckpointError(
                f"{file.path} is {kind}, not Stable Diffusion 1.5. Give the model that yours was trained from, such as "
                "v1-5-pruned-emaonly.safetensors."
            )
    # A name that the tables do not know keeps its prefix, and is reported as unexpected.
    unet = canonical_unet_names(config.unet)
    parts = {name: PartTensors() for name in PARTS}
    for name in file.infos:
        if name.startswith(_UNET):
            parts["unet"].add_named(file, {name: unet.get(name.removeprefix(_UNET), name)})
        elif name.startswith(_TEXT_ENCODER):
            canonical = rename(name.removeprefix(_TEXT_ENCODER), DIFFUSERS["text_encoder"])
            parts["text_encoder"].add_named(file, {name: canonical})
    return Checkpoint(layout="LDM file", path=file.path, config=config, parts=parts)
