"""What happens once, when the host loads the pack."""

from __future__ import annotations

from . import examples, folders, subject_folders


def prepare() -> None:
    """Register the folders of models and subjects and offer the example pictures; loads no model."""
    folders.register()
    subject_folders.register()
    examples.offer_pictures()
