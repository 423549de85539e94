"""A running prompt: the progress bar on the node, and the artist's wish to stop."""

from __future__ import annotations

import comfy.model_management
import comfy.utils


def stop_if_asked() -> None:
    """Raise the host's own interruption when the artist has cancelled the prompt."""
    comfy.model_management.throw_exception_if_processing_interrupted()


class Progress:
    """The bar on the node that runs now."""

    def __init__(self, total: int):
        self._bar = comfy.utils.ProgressBar(total)

    def report(self, done: int, total: int) -> None:
        """Show how much is done, and stop here if the artist has cancelled."""
        stop_if_asked()
        self._bar.update_absolute(done, total)
