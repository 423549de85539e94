"""Where adapters lie: the built-in one, `models/msdiffusion` and all folders that the user has added to it."""

from __future__ import annotations

from pathlib import Path

from ....blipdiff_impl.ms_diffusion.file_names import TOYBOX_FILE
from ..folders import TOYBOX, names_of_kind, path_of_kind, register_kind

FOLDER = "msdiffusion"
_FILE_TYPES = (".safetensors", ".bin")


def register() -> None:
    """Make the folder known to the host."""
    register_kind(FOLDER)


def adapter_names() -> list[str]:
    """The built-in adapter first, then every file that can be one, relative to its model folder."""
    return [TOYBOX, *names_of_kind(FOLDER, _FILE_TYPES)]


def adapter_path(name: str) -> Path:
    """Path of an adapter by the name in the list.

    Raises:
        CheckpointError: there is none; the message says where it was looked for and what is there.
    """
    if name == TOYBOX:
        return TOYBOX_FILE
    cure = (
        "Put ms_adapter.bin of doge1516/MS-Diffusion there, or the .safetensors that `python -m blipdiff_impl convert` "
        "makes of it, and press R."
    )
    return path_of_kind(FOLDER, name, "MS-Diffusion adapter", adapter_names()[1:], cure)
