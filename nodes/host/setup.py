"""What happens once, when the host loads the pack."""

from __future__ import annotations

from . import examples, folders


def prepare() -> None:
    """Register the model folder and offer the example pictures; loads no model."""
    folders.register()
    examples.offer_pictures()
