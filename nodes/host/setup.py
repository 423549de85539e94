"""What happens once, when the host loads the pack."""

from __future__ import annotations

from . import examples, folders
from .blip_diffusion import subject_folders
from .gill import model_folder
from .ms_diffusion import adapter_folder


def prepare() -> None:
    """Register the folders of models and subjects and offer the example pictures; loads no model."""
    folders.register()
    subject_folders.register()
    adapter_folder.register()
    model_folder.register()
    examples.offer_pictures()
