"""What an artist sees while a subject is learned: bar, loss, and a picture of how it looks by now."""

from __future__ import annotations

import time

import comfy.utils
import numpy as np
import torch
from PIL import Image

from ..session import stop_if_asked

_TEXT_SECONDS = 0.25  # between two lines of text; more often the browser cannot show them
_PICTURE_SIDE = 512
_MEAN_OF = 10


class Watch:
    """Called after every step; raises the host's interruption when the artist cancels.

    Args:
        total: steps.
        node_id: of the node that runs, for the text; None outside of a prompt.
        picture: draws the preview, a tensor `[1, H, W, 3]` in 0..1.
        every: steps between two previews; 0 for none.
    """

    def __init__(self, total: int, node_id: str | None, picture, every: int):
        self._total, self._node_id = total, node_id
        self._picture, self._every = picture, every
        self._bar = comfy.utils.ProgressBar(total)
        self._told = 0.0

    def __call__(self, done: int, losses: list[float]) -> None:
        stop_if_asked()
        self._bar.update_absolute(done, self._total, self._preview(done))
        now = time.monotonic()
        if losses and (now - self._told > _TEXT_SECONDS or done == self._total):
            self._told = now
            self._say(f"step {done} of {self._total}, loss {np.mean(losses[-_MEAN_OF:]):.4f}")

    def _preview(self, done: int) -> tuple | None:
        if not self._every or done == 0 or done % self._every:
            return None
        pixels = (self._picture()[0] * 255).round().to("cpu", torch.uint8).numpy()
        return "JPEG", Image.fromarray(pixels), _PICTURE_SIDE

    def _say(self, sentence: str) -> None:
        """Text on the node, where one runs."""
        if self._node_id is not None:
            from server import PromptServer

            PromptServer.instance.send_progress_text(sentence, self._node_id)
