"""Open a checkpoint of any layout: look at what lies at the path, and hand it to the layout's own file."""

from __future__ import annotations

from pathlib import Path

from ...errors import CheckpointError
from ...weights.folders import entries, exists, listing, what_was_found
from ...weights.opening import open_tensor_file
from ...weights.safetensors_file import SafetensorsFile
from ...weights.tensor_file import TensorFile
from ..config import RELEASED, ModelConfig
from .checkpoint import Checkpoint
from .layout_diffusers import open_diffusers_folder
from .layout_lavis import open_lavis_folder
from .layout_ldm import is_ldm_file, open_ldm_file
from .layout_single import is_single_file, open_single_file
from .layout_state_dict import open_state_dict

TOYBOX = "toybox"
TOYBOX_FILE = Path(__file__).parents[2] / "toybox" / "toybox.safetensors"

_LAVIS_FOLDERS = ("blip_model/", "proj_layer/")
_DIFFUSERS_FOLDERS = ("qformer/", "unet/", "text_encoder/", "vae/")


def open_checkpoint(path: str | Path, config: ModelConfig | None = None) -> Checkpoint:
    """Open a checkpoint; only names and headers are read.

    Args:
        path: a folder in the diffusers or LAVIS layout, a LAVIS fine-tuned `.pth`, a whole-model state dict, a
            `.safetensors` written by this pack, or "toybox" for the embedded model.
        config: sizes for layouts that state none; default the released ones.

    Raises:
        CheckpointError: there is nothing, it cannot be read, or it is of no known layout.
    """
    sizes, path = config or RELEASED, _existing(path)
    return _open_folder(path, sizes) if path.is_dir() else _open_file(open_tensor_file(path), sizes)


def open_base(path: str | Path, config: ModelConfig) -> Checkpoint:
    """What a model was trained from: as `open_checkpoint`, and stock Stable Diffusion 1.5 as one file in LDM names.

    Args:
        config: sizes of the model, which are taken for those of a file in LDM names.

    Raises:
        CheckpointError: as `open_checkpoint`, or the file is of another Stable Diffusion.
    """
    path = _existing(path)
    if path.is_dir():
        return _open_folder(path, RELEASED)
    file = open_tensor_file(path)
    return open_ldm_file(file, config) if is_ldm_file(file) else _open_file(file, RELEASED)


def _existing(path: str | Path) -> Path:
    path = TOYBOX_FILE if str(path) == TOYBOX else Path(path)
    if not exists(path):
        raise CheckpointError(f"There is no checkpoint {path.name}. {what_was_found(path.parent, (path.name,))}")
    return path


def _open_file(file: TensorFile, sizes: ModelConfig) -> Checkpoint:
    if isinstance(file, SafetensorsFile) and is_single_file(file):
        return open_single_file(file)
    return open_state_dict(file, sizes)


def _open_folder(folder: Path, sizes: ModelConfig) -> Checkpoint:
    there = entries(folder)
    if any(name in there for name in _LAVIS_FOLDERS):
        return open_lavis_folder(folder, sizes)
    if any(name in there for name in _DIFFUSERS_FOLDERS):
        return open_diffusers_folder(folder, sizes)
    raise CheckpointError(
        f"{folder} is no checkpoint folder: looked for {', '.join(_DIFFUSERS_FOLDERS)} (diffusers layout) and "
        f"{', '.join(_LAVIS_FOLDERS)} (LAVIS layout). Found there: {listing(folder)}."
    )
